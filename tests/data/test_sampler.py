"""The order of an epoch: seeded permutations, class balance, repeated augmentation, shares of several processes."""

import numpy as np
import pytest

from xvit.data.annotations import Sample
from xvit.data.sampler import EpochSampler
from xvit.utils.errors import XViTError


class Dataset:
    """The attributes of a data set that the sampler uses."""

    def __init__(self, total, *, labels=(0,), seed=0, epoch=0):
        self.samples = [Sample(path=str(i), label=labels[i % len(labels)], id=str(i)) for i in range(total)]
        self.seed, self.epoch = seed, epoch


def indices_of(total, *, world_size=1, rank=0, skip=0, monkeypatch=None, labels=(0,), seed=0, epoch=0, **options):
    if monkeypatch is not None:
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        monkeypatch.setenv("RANK", str(rank))
    sampler = EpochSampler(Dataset(total, labels=labels, seed=seed, epoch=epoch), **options)
    sampler.skip = skip
    indices = list(sampler)
    assert len(indices) == len(sampler) - skip
    return indices


def test_order_is_a_permutation_seeded_by_seed_and_epoch():
    orders = [indices_of(8, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert indices_of(8, seed=1, epoch=1) == orders[3]


@pytest.mark.parametrize("total", [1, 2, 7, 12])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_processes_share_an_epoch(total, world_size, monkeypatch):
    """Step by step, all processes together have the clips of a single process, the first ones again at the end."""
    expected = indices_of(total)
    shares = [
        indices_of(total, world_size=world_size, rank=rank, monkeypatch=monkeypatch) for rank in range(world_size)
    ]
    together = [index for step in zip(*shares, strict=True) for index in step]
    assert sorted(expected) == list(range(total))
    assert together == [expected[i % total] for i in range(-(-total // world_size) * world_size)]
    for rank in range(world_size):
        skipped = indices_of(total, world_size=world_size, rank=rank, skip=1, monkeypatch=monkeypatch)
        assert skipped == shares[rank][1:]


def test_only_the_pass_after_a_resume_skips():
    sampler = EpochSampler(Dataset(5))
    whole = list(sampler)
    assert sorted(whole) == list(range(5))
    sampler.skip = 2
    assert [list(sampler) for _ in range(2)] == [whole[2:], whole]


def test_repeated_aug_out_of_range():
    with pytest.raises(XViTError, match=r"^repeated_aug=0: expected"):
        EpochSampler(Dataset(3), repeated_aug=0)


@pytest.mark.parametrize(("total", "repeated_aug"), [(7, 2), (8, 2), (9, 4), (3, 5)])
def test_repeated_samples_are_adjacent_and_distinct_clips(total, repeated_aug):
    indices = indices_of(total, repeated_aug=repeated_aug)
    repetitions, naive = {}, []
    for index in indices:
        repetitions[index % total] = repetitions.get(index % total, -1) + 1
        naive.append(index % total + total * repetitions[index % total])
    assert indices == naive
    assert [index % total for index in indices] == [indices_of(total)[i // repeated_aug] for i in range(total)]


def test_balanced_classes_are_equally_frequent():
    """One video in ten is of class 1: it is drawn as often as the nine others together."""
    labels = (0,) * 9 + (1,)
    drawn = np.array([indices_of(400, labels=labels, epoch=epoch, class_balanced=True) for epoch in range(10)]) % 400
    share = np.mean(drawn % 10 == 9)
    assert share == pytest.approx(0.5, abs=0.03)
    counts = np.bincount(drawn.ravel() % 10, minlength=10) / drawn.size
    assert counts[:9] == pytest.approx(np.full(9, 0.5 / 9), abs=0.012)


@pytest.mark.parametrize("labels", [({"verb": 1},), ((0, 1),), (None,)])
def test_balanced_classes_need_one_label_per_video(labels):
    with pytest.raises(XViTError, match=r"data.class_balanced=True: expected exactly one label per video"):
        EpochSampler(Dataset(3, labels=labels), class_balanced=True)
