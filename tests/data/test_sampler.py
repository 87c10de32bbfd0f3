"""The order of an epoch: seeded permutations, class balance, repeated augmentation, shares of several processes,
runs of neighbours in shards."""

from dataclasses import replace

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


class Shards(Dataset):
    """As many videos in each shard as `sizes` says. Only the names of the shards matter."""

    def __init__(self, folder, sizes, **options):
        super().__init__(sum(sizes), **options)
        paths = []
        for shard, size in enumerate(sizes):
            (folder / f"{shard}.tar").touch()
            paths += [f"{folder}/{shard}.tar/{number}.mp4" for number in range(size)]
        self.samples = [replace(sample, path=path) for sample, path in zip(self.samples, paths, strict=True)]
        self.shard_of = np.repeat(np.arange(len(sizes)), sizes)


def test_videos_in_shards_are_read_in_runs(tmp_path):
    """Nearly all reads go on where the last one ended, and few shards are read from at a time."""
    data = Shards(tmp_path, [50, 3, 1, *[40] * 30])
    orders = []
    for data.seed, data.epoch in ((0, 0), (0, 1), (1, 0)):
        order = np.array(list(EpochSampler(data)))
        assert sorted(order) == list(range(len(data.samples)))
        assert order.tolist() == list(EpochSampler(data))
        shards = data.shard_of[order]
        follows = (np.diff(order) == 1) & (np.diff(shards) == 0)
        assert follows.mean() > 0.8
        run_lengths = np.diff(np.flatnonzero(np.concatenate([[True], ~follows, [True]])))
        assert np.median(run_lengths) == 8
        places = [np.flatnonzero(shards == shard) for shard in np.unique(shards)]
        opened = [sum(p[0] <= position <= p[-1] for p in places) for position in range(len(order))]
        assert max(opened) <= 16
        orders.append(order)
    starts = [{int(order[i + 1]) for i in np.flatnonzero(np.diff(order) != 1)} for order in orders]
    assert len(starts[0] & starts[1]) < len(starts[0]) / 2  # the runs are cut at other places
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 8), (2, 4), (2, 5), (3, 1), (4, 8), (5, 100)])
def test_processes_share_each_step_of_shards(world_size, batch_size, tmp_path, monkeypatch):
    """Together they have the batches of one process with a larger batch size; each reads neighbours."""
    data = Shards(tmp_path, [30, 17, 24])
    expected = list(EpochSampler(data, repeated_aug=1))
    total = -(-len(expected) // world_size) * world_size
    expected = [expected[position % len(expected)] for position in range(total)]
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    shares = []
    for rank in range(world_size):
        monkeypatch.setenv("RANK", str(rank))
        sampler = EpochSampler(data, batch_size=batch_size)
        shares.append(list(sampler))
        assert len(shares[rank]) == len(sampler)
        sampler.skip = batch_size
        assert list(sampler) == shares[rank][batch_size:]
    for start in range(0, len(shares[0]), batch_size):
        together = [index for share in shares for index in share[start : start + batch_size]]
        assert together == expected[start * world_size : start * world_size + len(together)]


def test_shards_with_repeated_and_balanced_draws(tmp_path):
    data = Shards(tmp_path, [9, 9], labels=(0, 0, 1))
    repeated = [index % 18 for index in EpochSampler(data, repeated_aug=2)]
    assert repeated[::2] == repeated[1::2] == list(EpochSampler(data))[:9]
    assert len(list(EpochSampler(data, class_balanced=True))) == 18


def test_a_few_samples_outside_of_shards(tmp_path):
    data = Shards(tmp_path, [20, 20])
    data.samples[::7] = [replace(sample, path=f"{tmp_path}/none.mp4") for sample in data.samples[::7]]
    assert sorted(EpochSampler(data)) == list(range(40))
