"""Videos in a store of the S3 kind: a server on this machine, with faults."""

import pickle
import threading
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from helpers.barcode_videos import write_video
from helpers.color_videos import CLIP
from xvit.data.annotations import DatasetSplits, Sample
from xvit.data.dataset import VideoDataset
from xvit.data.decode import decode
from xvit.data.loader import make_loader
from xvit.data.reading import read_test_clips
from xvit.data.record import record_samples
from xvit.data.remote import download, local_video, stores
from xvit.data.remote.errors import CredentialsError
from xvit.data.seen import count_seen, fingerprint_splits
from xvit.data.tools.check import check_file
from xvit.utils.addresses import allow_remote
from xvit.utils.errors import VideoError, XViTError

NAMES = [f"{number}.mp4" for number in range(4)]


@pytest.fixture(scope="module")
def videos(s3_server, tmp_path_factory) -> Path:
    """A folder whose videos are in the bucket, too, beside an object that is no video and an empty one."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        write_video(folder / name, frames=20 + number, width=72, height=64)
    files = {name: (folder / name).read_bytes() for name in NAMES}
    s3_server.put(
        "videos", {**files, "folder/text.mp4": b"no video", "empty.mp4": b"", "two words.mp4": files["0.mp4"]}
    )
    return folder


@pytest.fixture
def store(s3, videos):
    """The server with these videos, which are allowed."""
    allow_remote("s3")
    return s3


def sample(name: str) -> Sample:
    return Sample(path=f"s3://videos/{name}", label=0, id=name)


def faults(*kinds: str):
    """These faults for the first requests, then none."""
    remaining = iter(kinds)
    return lambda method, path: next(remaining, "")


def reason(name: str) -> str:
    with pytest.raises(VideoError) as caught:
        read_test_clips(sample(name), CLIP, 1, 0)
    assert caught.value.path == f"s3://videos/{name}"
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    return caught.value.reason


def test_the_same_frames_as_of_the_file(store, videos):
    local = read_test_clips(Sample(path=str(videos / "1.mp4"), label=0, id=""), CLIP, 2, 10)
    remote = read_test_clips(sample("1.mp4"), CLIP, 2, 10)
    np.testing.assert_array_equal(local.frames, remote.frames)
    assert remote.path == remote.info.path == "s3://videos/1.mp4"
    assert remote.warnings == local.warnings
    assert [method for method, _ in store.log] == ["HEAD", "GET"]


@pytest.mark.parametrize("kinds", [("503",), ("500", "", "reset", "reset"), ("429", "502", "504", "", "503", "reset")])
def test_faults_that_pass_are_retried_and_counted(store, videos, kinds):
    store.fault = faults(*kinds)
    clip = read_test_clips(sample("2.mp4"), CLIP, 1, 10)
    number = sum(map(bool, kinds))
    assert store.injected == number
    assert f"downloaded with {number} {'retry' if number == 1 else 'retries'}" in clip.warnings
    assert clip.info.num_frames == 22


def test_only_the_lost_block_is_read_again(store, videos, monkeypatch):
    monkeypatch.setattr(stores, "BLOCK_BYTES", 1000)
    data = (videos / "3.mp4").read_bytes()
    numbers = count()
    store.fault = lambda method, path: "reset" if next(numbers) % 3 == 2 else ""
    with local_video("s3://videos/3.mp4") as video:
        assert Path(video.path).read_bytes() == data
    num_blocks = -(-len(data) // 1000)
    assert num_blocks > 3
    assert len(store.log) == 1 + num_blocks + store.injected


def test_faults_that_stay_are_the_videos_error(store):
    store.fault = lambda method, path: "503"
    assert reason("0.mp4").startswith("not downloaded in 6 attempts (ClientError: An error occurred (503)")
    assert [method for method, _ in store.log] == ["HEAD"] * 6
    store.log.clear()
    store.fault = lambda method, path: "reset" if method == "GET" else ""
    assert reason("0.mp4").startswith("not downloaded in 6 attempts (")
    assert [method for method, _ in store.log] == ["HEAD", *["GET"] * 6]


def test_permanent_errors_are_not_retried(store):
    assert reason("none.mp4") == "not found (no such file, bucket or host)"
    assert reason("folder").startswith("a folder, not a video")
    assert reason("folder/text.mp4").startswith("not a readable video file")
    assert "the file is empty (0 bytes)" in reason("empty.mp4")
    store.log.clear()
    store.fault = lambda method, path: "403"
    assert reason("0.mp4") == "access denied (403: check the permissions, or the address)"
    assert len(store.log) == 2  # the second answer might have said why
    store.fault = None
    with pytest.raises(VideoError, match=r"NoSuchBucket"), local_video("s3://nowhere/a.mp4"):
        pass


def test_credentials(store, monkeypatch):
    store.denied = True
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "bad")
    with pytest.raises(CredentialsError, match=r"^s3://videos: .* not accepted \(InvalidAccessKeyId\): set"):
        VideoDataset(samples=[sample("0.mp4")], clip_spec=CLIP)[0]
    with pytest.raises(CredentialsError):
        record_samples([sample("0.mp4")])
    stores._file_systems.clear()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match=r"^s3://videos: no credentials found: set AWS_ACCESS_KEY_ID"):
        check_file([sample("0.mp4")])


def test_a_place_that_denies_everything_ends_the_command(store, monkeypatch):
    monkeypatch.setattr(download, "_MAX_DENIED", 3)
    store.fault = lambda method, path: "403" if path == "/videos/1.mp4" else ""
    for _ in range(2):
        assert "access denied" in reason("1.mp4")
    with pytest.raises(CredentialsError, match="denied to each of the first 3 videos, and none could be read"):
        read_test_clips(sample("1.mp4"), CLIP, 1, 0)
    read_test_clips(sample("0.mp4"), CLIP, 1, 0)
    assert "access denied" in reason("1.mp4")  # others can be read


def test_nothing_is_read_that_is_not_allowed(s3, videos):
    for read in (lambda: read_test_clips(sample("0.mp4"), CLIP, 1, 0), lambda: record_samples([sample("0.mp4")])):
        with pytest.raises(XViTError, match="not opened unless they are allowed: to allow it, give --allow-remote s3"):
            read()
    assert s3.log == []


def test_limits(store, monkeypatch):
    monkeypatch.setenv("XVIT_REMOTE_MAX_GB", "1e-6")
    assert reason("0.mp4") == "larger than 1e-06 GB (XVIT_REMOTE_MAX_GB)"
    assert [method for method, _ in store.log] == ["HEAD"]
    monkeypatch.setenv("XVIT_REMOTE_MAX_GB", "much")
    with pytest.raises(XViTError, match="XVIT_REMOTE_MAX_GB='much': expected a number"):
        read_test_clips(sample("0.mp4"), CLIP, 1, 0)
    monkeypatch.delenv("XVIT_REMOTE_MAX_GB")
    monkeypatch.setenv("XVIT_REMOTE_TIMEOUT", "0.2")
    answer = threading.Event()
    store.fault = lambda method, path: "503" if answer.wait(20) else ""
    assert reason("0.mp4") == "not downloaded within 0.2 s (XVIT_REMOTE_TIMEOUT)"
    answer.set()


def test_a_check_names_the_address(store):
    report = check_file([sample("0.mp4")], full=True)
    assert (report.kind, report.path, report.info.path) == ("", "s3://videos/0.mp4", "s3://videos/0.mp4")
    store.fault = faults("503")
    assert check_file([sample("0.mp4")]).info.warnings == ("downloaded with 1 retry",)
    assert check_file([sample("none.mp4")]).kind == "missing"
    assert check_file([sample("folder/text.mp4")]).kind == "unreadable"


def test_loader_processes_read_them_after_the_main_process_did(store, videos):
    samples = [sample(name) for name in [*NAMES, "none.mp4"]]
    assert [row[3] for row in record_samples(samples)] == [
        *((videos / name).stat().st_size for name in NAMES),
        None,
    ]
    dataset = VideoDataset(samples=samples, clip_spec=CLIP)
    batches = list(make_loader(dataset, batch_size=2, num_workers=2))
    assert [index for batch in batches for index in batch["indices"].tolist()] == [0, 1, 2, 3]
    assert list(batches[-1]["errors"]) == [4]
    read_test_clips(sample("0.mp4"), CLIP, 1, 0)  # the connections of this process still work


def test_copies_are_recognised_wherever_they_lie(store, videos):
    local = [Sample(path=str(videos / name), label=0, id=name) for name in NAMES[:2]]
    data = DatasetSplits(train=local, val=[], class_names=["a"])
    provenance = {"data": {"train": 2, "val": 0, "fingerprints": fingerprint_splits(data)}}
    assert count_seen(provenance, [sample(name) for name in ["none.mp4", *NAMES]]) == {"train": 2}
    data = DatasetSplits(train=[sample(name) for name in NAMES[:2]], val=[], class_names=["a"])
    assert fingerprint_splits(data) == provenance["data"]["fingerprints"]


def test_names_with_spaces(store, videos):
    clip = read_test_clips(sample("two words.mp4"), CLIP, 1, 0)
    assert clip.info.num_frames == decode(videos / "0.mp4", [0]).info.num_frames
