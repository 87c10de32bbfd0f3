"""The data loader: workers do not change the batches, nor does their loss, or a lack of shared memory."""

import faulthandler
import multiprocessing
import os
import signal
from collections import namedtuple
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from helpers.color_videos import PREPROCESSING
from xvit.config import AugmentConfig, ClipSpec
from xvit.data import loader, reading
from xvit.data.dataset import Batch, VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.utils.errors import VideoError, XViTError

SPEC = ClipSpec(num_frames=4, image_size=32, **PREPROCESSING)
AUGMENT = AugmentConfig(scale_jitter=(1, 1.5), horizontal_flip=0.5, auto_augment="rand", random_erasing=0.5)


def assert_equal(batches: list[Batch], expected: list[Batch]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for name in ("pixels", "labels", "indices"):
            assert torch.equal(batch[name], other[name])
        errors = {index: str(error) for index, error in batch["errors"].items()}
        assert errors == {index: str(error) for index, error in other["errors"].items()}


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


def end_process(how: signal.Signals | int) -> None:
    if isinstance(how, signal.Signals):
        faulthandler.disable()  # of pytest, which would print tracebacks
        os.kill(os.getpid(), how)
        signal.pause()  # until it arrives
    os._exit(how)


def before_reading(monkeypatch, action) -> None:
    """Call `action` with the path before each read of a video."""
    read_clip = reading.read_clip

    def read(path, *args, **options):
        action(path)
        return read_clip(path, *args, **options)

    monkeypatch.setattr(reading, "read_clip", read)


def read_epochs(dataset: VideoDataset, *, num_workers: int = 0) -> list[list[Batch]]:
    epochs, batches = [], make_loader(dataset, batch_size=3, num_workers=num_workers, sampler=EpochSampler(dataset))
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        epochs.append(list(batches))
    return epochs


@pytest.mark.parametrize(
    ("how", "reason", "num_workers"),
    [
        (signal.SIGKILL, "was killed (signal 9)", 3),
        (signal.SIGSEGV, "was killed (signal 11)", 1),
        (signal.SIGABRT, "was killed (signal 6)", 3),
        (3, "ended (exit code 3)", 1),
    ],
)
def test_a_video_that_kills_its_worker_is_unreadable(samples, monkeypatch, caplog, how, reason, num_workers):
    """Everything else is as if the video had raised an error, in the next epoch too, in which it is not read again."""
    monkeypatch.setattr(loader, "_MAX_KILLS", 0)  # a video that does it is no kill by chance
    path, reason = samples[4].path, f"the process that read it {reason}"
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=AUGMENT)

    def refuse(read):
        if read == path:
            raise VideoError(path, reason)

    with monkeypatch.context() as patched:
        before_reading(patched, refuse)
        expected = read_epochs(dataset)
    before_reading(monkeypatch, lambda read: end_process(how) if read == path else None)
    for batches, others in zip(read_epochs(dataset, num_workers=num_workers), expected, strict=True):
        assert_equal(batches, others)
    candidates, verdict = (record.getMessage() for record in caplog.records)
    assert candidates.startswith(f"a loader worker {reason.removeprefix('the process that read it ')}; its videos")
    assert path in candidates
    assert verdict == f"{path}: {reason}"


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_that_are_killed_from_outside_change_nothing(samples, monkeypatch, tmp_path, num_workers):
    """Each video is read in the end: its worker was killed by chance, as by a lack of memory."""
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=AUGMENT)
    expected = read_epochs(dataset)

    def kill_once(path):
        mark = tmp_path / os.path.basename(path)
        if not mark.exists():
            mark.touch()
            end_process(signal.SIGKILL)

    before_reading(monkeypatch, lambda path: kill_once(path) if path in (samples[1].path, samples[6].path) else None)
    for batches, others in zip(read_epochs(dataset, num_workers=num_workers), expected, strict=True):
        assert_equal(batches, others)
    assert len(list(tmp_path.iterdir())) == 2


def test_workers_that_are_killed_again_and_again_are_an_error(samples, monkeypatch):
    monkeypatch.setattr(loader, "_MAX_KILLS", 2)
    monkeypatch.setattr(loader, "_read_batch", lambda dataset, job: end_process(signal.SIGKILL))
    batches = iter(make_loader(VideoDataset(samples=samples, clip_spec=SPEC), batch_size=1, num_workers=2))
    assert [next(batches)["indices"].tolist() for _ in range(2)] == [[0], [1]]
    with pytest.raises(XViTError, match=r"killed 3 times, though each of their videos can be read: .* fewer workers"):
        list(batches)


def test_an_error_in_a_worker_is_raised_and_ends_the_workers(samples, monkeypatch):
    def fail(dataset, job):
        raise RuntimeError(f"broken at {job}")

    monkeypatch.setattr(loader, "_read_batch", fail)
    with pytest.raises(RuntimeError, match=r"broken at \(0, \[[036]"):
        list(make_loader(VideoDataset(samples=samples, clip_spec=SPEC), batch_size=3, num_workers=2))
    assert not multiprocessing.active_children()


def test_global_random_state_does_not_change(samples):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=AUGMENT)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(make_loader(dataset, batch_size=3, sampler=EpochSampler(dataset)))
    assert torch.equal(torch.get_rng_state(), before)


def _small(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: usage(100_000))
    monkeypatch.setattr(loader, "SHARED_MEMORY", Path("/"))
    monkeypatch.setattr(torch.Tensor, "share_memory_", lambda tensor: tensor)


def _unusable(monkeypatch):
    def share_memory_(tensor):
        raise RuntimeError("unable to open shared memory object in read-write mode: Read-only file system (30)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", share_memory_)


@pytest.mark.parametrize(
    ("shared_memory", "message"), [(_small, "0 MB free"), (_unusable, "/dev/shm: no usable shared memory")]
)
def test_batches_pass_through_pipes_without_shared_memory(shared_memory, message, samples, monkeypatch, caplog):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=AUGMENT)
    expected = list(make_loader(dataset, batch_size=3))
    shared_memory(monkeypatch)
    monkeypatch.setattr(loader._logger, "filters", [])
    assert_equal(list(make_loader(dataset, batch_size=3)), expected)
    assert not caplog.messages  # only workers need shared memory
    # Any tensor that were to be shared would be an error.
    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, None)
    with_workers = make_loader(dataset, batch_size=3, num_workers=2)
    assert_equal(list(with_workers), expected)
    (text,) = caplog.messages
    assert message in text
    assert "the batches of 2 loader workers need 0 MB: they are passed through pipes" in text


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"num_workers": -1}])
def test_numbers_out_of_range(values, samples):
    with pytest.raises(XViTError, match=f"{next(iter(values))}="):
        make_loader(VideoDataset(samples=samples, clip_spec=SPEC), **{"batch_size": 1} | values)


def test_a_loader_that_is_closed_ends_its_workers_and_can_start_again(samples):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC)
    loader = make_loader(dataset, batch_size=3, num_workers=2)
    batches = iter(loader)  # kept alive, as the traceback of an error keeps it
    first = next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    loader.close()
    assert not any(worker.is_alive() for worker in workers)
    assert_equal([next(iter(loader))], [first])
    loader.close()
