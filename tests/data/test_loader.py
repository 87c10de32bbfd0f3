"""The data loader: workers do not change the batches; too little shared memory is an error."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from helpers.color_videos import PREPROCESSING
from xvit.config import AugmentConfig, ClipSpec
from xvit.data import loader
from xvit.data.dataset import Batch, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.utils.errors import XViTError

SPEC = ClipSpec(num_frames=4, image_size=32, **PREPROCESSING)
AUGMENT = AugmentConfig(scale_jitter=(1, 1.5), horizontal_flip=0.5, auto_augment="rand", random_erasing=0.5)


def assert_equal(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for name in ("pixels", "labels", "indices"):
            assert torch.equal(batch[name], other[name])
        errors = {index: str(error) for index, error in batch["errors"].items()}
        assert errors == {index: str(error) for index, error in other["errors"].items()}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")  # on machines with fewer cores
@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize("augment", [AUGMENT, None])
def test_workers_do_not_change_the_batches(augment, num_workers, samples):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=augment, spatial_views=1)
    sampler = EpochSampler(dataset, repeated_aug=2) if augment else None
    expected = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        expected.append(list(make_loader(dataset, batch_size=3, sampler=sampler)))
    with_workers = make_loader(dataset, batch_size=3, num_workers=num_workers, sampler=sampler)
    for epoch in (0, 1, 0):  # persistent workers see the new epoch
        dataset.set_epoch(epoch)
        assert_equal(list(with_workers), expected[epoch])
    if augment:
        assert not torch.equal(expected[0][0]["indices"], expected[1][0]["indices"])


def test_global_random_state_does_not_change(samples):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=AUGMENT)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(dataset, batch_size=3, sampler=EpochSampler(dataset)))
    assert torch.equal(torch.get_rng_state(), before)


def test_too_little_shared_memory_is_an_error(samples, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: usage(1_000_000))
    monkeypatch.setattr(loader, "SHARED_MEMORY", Path("/"))
    dataset = VideoDataset(samples=samples, clip_spec=ClipSpec(image_size=224, **PREPROCESSING), augment=AUGMENT)
    make_loader(dataset, batch_size=16)
    with pytest.raises(XViTError, match=r"1 MB free, but the batches of 2 loader workers need 96 MB.*--shm-size"):
        make_loader(dataset, batch_size=16, num_workers=2)


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"num_workers": -1}])
def test_numbers_out_of_range(values, samples):
    with pytest.raises(XViTError, match=f"{next(iter(values))}="):
        make_loader(VideoDataset(samples=samples, clip_spec=SPEC), **{"batch_size": 1} | values)
