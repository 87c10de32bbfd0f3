"""The files of the built-in data set: encoding, layout, what each clip depends on."""

from pathlib import Path

import av
import numpy as np
import pytest

from helpers.files import file_bytes, read_frames
from xvit.data.synthetic.background import BACKGROUND, render_background
from xvit.data.synthetic.dataset import BACKGROUND_SHARE, encode_video, write_motion_dataset
from xvit.data.synthetic.motion import CLASSES, FRAMES, SECONDS, render_clip
from xvit.utils.errors import XViTError


def test_encoding_does_not_depend_on_the_direction(tmp_path: Path) -> None:
    for number, label in enumerate(CLASSES[::2]):
        frames = render_clip(label, np.random.default_rng(number))
        encode_video(frames, tmp_path / "forwards.mp4")
        encode_video(frames[::-1], tmp_path / "backwards.mp4")
        forwards, backwards = read_frames(tmp_path / "forwards.mp4"), read_frames(tmp_path / "backwards.mp4")
        assert np.array_equal(forwards, backwards[::-1])
        assert abs((tmp_path / "forwards.mp4").stat().st_size - (tmp_path / "backwards.mp4").stat().st_size) < 100
        assert np.abs(forwards.astype(float) - frames).mean() < 12


def test_encoding_error_does_not_depend_on_the_position_in_the_clip(tmp_path: Path) -> None:
    still = np.repeat(render_clip(CLASSES[0], np.random.default_rng(0))[:1], FRAMES, axis=0)
    encode_video(still, tmp_path / "still.mp4")
    decoded = read_frames(tmp_path / "still.mp4")
    assert np.array_equal(decoded, np.broadcast_to(decoded[0], decoded.shape))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dataset") / "clips"
    write_motion_dataset(output, clips_per_class=3, seed=3, val_fraction=1 / 3)
    return output


def test_file_layout_and_keyframes(dataset: Path) -> None:
    assert sorted(path.name for path in dataset.iterdir()) == ["train", "val"]
    for split, number in (("train", 2), ("val", 1)):
        assert {path.name for path in (dataset / split).iterdir()} == set(CLASSES)
        for label in CLASSES:
            names = sorted(path.name for path in (dataset / split / label).iterdir())
            assert names == [f"{index:04d}.mp4" for index in range(number)]
    with av.open(str(dataset / "val" / CLASSES[0] / "0000.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert len(packets) == FRAMES
        assert all(packet.is_keyframe for packet in packets)


def test_clips_depend_on_seed_split_class_and_index_only(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    write_motion_dataset(
        tmp_path / "a", clips_per_class=2, val_fraction=0.5, on_progress=lambda *args: progress.append(args)
    )
    write_motion_dataset(tmp_path / "b", clips_per_class=4, val_fraction=0.5)
    write_motion_dataset(tmp_path / "c", clips_per_class=2, val_fraction=0.5, seed=1)
    a, b, c = (file_bytes(tmp_path / name) for name in "abc")
    assert progress == [(done, len(a)) for done in range(1, len(a) + 1)]
    assert len(set(a.values())) == len(a) == 2 * len(CLASSES)
    assert a.items() <= b.items()
    assert a.keys() == c.keys()
    assert not set(a.values()) & set(c.values())


def test_an_interrupted_data_set_leaves_no_files(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_motion_dataset(tmp_path / "out", clips_per_class=2, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_must_be_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_motion_dataset(tmp_path / "empty", clips_per_class=1)
    assert len(file_bytes(tmp_path / "empty")) == len(CLASSES)
    before = file_bytes(tmp_path / "empty")
    with pytest.raises(XViTError, match="not an empty directory; choose another one or remove it"):
        write_motion_dataset(tmp_path / "empty", clips_per_class=1, seed=1)
    assert file_bytes(tmp_path / "empty") == before
    (tmp_path / "file").touch()
    with pytest.raises(XViTError, match="file: exists; choose another one or remove it"):
        write_motion_dataset(tmp_path / "file", clips_per_class=1)


@pytest.mark.parametrize(
    "wrong",
    [{"clips_per_class": 0}, {"val_fraction": 1.5}, {"val_fraction": -0.1}, {"seed": -1}, {"fps": 0}, {"fps": 1000}],
    ids=str,
)
def test_values_out_of_range(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(XViTError, match=f"{next(iter(wrong))}="):
        write_motion_dataset(tmp_path / "out", **({"clips_per_class": 1} | wrong))
    assert list(tmp_path.iterdir()) == []


def test_the_background_leaves_the_other_classes_as_they_are(dataset: Path, tmp_path: Path) -> None:
    write_motion_dataset(tmp_path / "a", clips_per_class=3, seed=3, val_fraction=1 / 3, background=True)
    without, files = file_bytes(dataset), file_bytes(tmp_path / "a")
    assert without.items() <= files.items()
    added = {name: data for name, data in files.items() if name not in without}
    expected = {"train": 2 * BACKGROUND_SHARE, "val": BACKGROUND_SHARE}
    assert set(added) == {
        f"{split}/{BACKGROUND}/{index:04d}.mp4" for split, count in expected.items() for index in range(count)
    }
    assert len(set(files.values())) == len(files)
    encode_video(render_background(np.random.default_rng([3, 1, len(CLASSES), 2])), tmp_path / "clip.mp4")
    assert added[f"val/{BACKGROUND}/0002.mp4"] == (tmp_path / "clip.mp4").read_bytes()


@pytest.mark.parametrize("fps", [5, 12.5, 25, 29.97, 59.94])
def test_frame_rate_of_the_files(tmp_path: Path, fps: float) -> None:
    write_motion_dataset(tmp_path / "a", clips_per_class=1, val_fraction=0, fps=fps, background=True)
    for label in (CLASSES[1], BACKGROUND):
        with av.open(str(tmp_path / "a" / "train" / label / "0000.mp4")) as container:
            times = [frame.time for frame in container.decode(video=0)]
        assert len(times) == round(fps * SECONDS)
        np.testing.assert_allclose(times, np.arange(len(times)) / fps, atol=1e-4)
