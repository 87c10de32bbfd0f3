"""Tests of clips: the requested frames by seeking and in order, damaged and hostile files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.barcode_videos import (
    FORMATS,
    barcode_frame,
    corrupt,
    damage_frame,
    read_number,
    read_numbers,
    truncate,
    write_video,
)
from xvit.data.decode import Clip, decode, probe, read_clip, video
from xvit.data.synthetic import encode_video, render_clip
from xvit.utils.errors import VideoError, XViTError

FRAMES = 60
# Formats with one packet per frame and a timestamp each: they must be decoded by seeking, not just give equal frames.
SEEKABLE = {kind for kind in FORMATS if kind.startswith(("h264", "hevc", "vp9", "av1"))} - {"h264-ts", "h264-avi"}


def reference_frames(path: Path) -> list[np.ndarray]:
    """All frames, (H, W, C) each, decoded in order by PyAV alone."""
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
            for frame in container.decode(video=0)
        ]


def index_sets(num_frames: int, num_draws: int) -> Iterator[list[int] | np.ndarray]:
    """Index sets as training and testing use them, and unusual ones."""
    rng = np.random.default_rng(0)
    yield [num_frames - 1]
    yield [7, 3, 3, 40, 0]
    yield np.arange(num_frames)
    for _ in range(num_draws):
        yield np.sort(rng.integers(0, num_frames, 8))
        yield np.minimum(rng.integers(0, num_frames) + rng.integers(1, 5) * np.arange(8), num_frames - 1)


@pytest.mark.parametrize("kind", FORMATS)
def test_requested_frames_by_seeking_and_in_order(kind, make_video, monkeypatch):
    path = make_video(kind)
    images = reference_frames(path)
    assert [read_number(image) for image in images] == list(range(FRAMES))
    successes = []
    decode_by_seeking = video.decode_by_seeking
    monkeypatch.setattr(
        video, "decode_by_seeking", lambda *args: successes.append(decode_by_seeking(*args)) or successes[-1]
    )
    clips = [(indices, decode(path, indices)) for indices in index_sets(FRAMES, 6)]
    assert successes == [True] * (len(clips) if kind in SEEKABLE else 0)
    monkeypatch.setattr(video, "decode_by_seeking", lambda *args: False)
    for indices, clip in clips:
        expected = np.stack([images[index] for index in indices])
        np.testing.assert_array_equal(clip.frames, expected)
        assert clip.indices.tolist() == list(indices)
        np.testing.assert_allclose(clip.times, clip.indices / 25, atol=2e-3)
    np.testing.assert_array_equal(decode(path, indices).frames, clip.frames)


@pytest.mark.parametrize(
    ("kind", "indices", "limit"),
    [
        ("h264-mp4", [50], 12),  # seeks to frame 48
        ("h264-mp4", [2, 50], 20),  # seeks to frame 48 after another frame
        ("h264-one-keyframe", [50], 40),  # skips frames that no other frame refers to
    ],
)
def test_seeking_decodes_fewer_frames(kind, indices, limit, make_video, monkeypatch):
    decoded = []
    add = video.FrameBuffer.add

    def record_and_add(self, frame, *, requested):
        decoded.append(frame.pts)
        add(self, frame, requested=requested)

    monkeypatch.setattr(video.FrameBuffer, "add", record_and_add)
    decode(make_video(kind), indices)
    assert len(decoded) < limit


def test_of_independent_frames_only_the_requested_ones_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    frames = render_clip("moving_left", np.random.default_rng(0))
    encode_video(frames, path)
    in_order = decode(path, range(16)).frames
    added = []
    add = video.FrameBuffer.add
    monkeypatch.setattr(video.FrameBuffer, "add", lambda self, f, **k: (added.append(f.pts), add(self, f, **k)))
    np.testing.assert_array_equal(decode(path, [1, 3, 5, 7, 14]).frames, in_order[[1, 3, 5, 7, 14]])
    assert len(added) == 5


@pytest.mark.parametrize("kind", sorted(SEEKABLE))
def test_a_container_that_calls_all_frames_keyframes_is_not_believed(kind, make_video, monkeypatch):
    scan_video, indices = video.scan_video, [0, 3, 5, 8, 30, 33, 59]
    expected = decode(make_video(kind), indices).frames

    def scan_with_false_keyframes(*args):
        scan = scan_video(*args)
        return replace(scan, keyframe_pts=scan.pts)

    monkeypatch.setattr(video, "scan_video", scan_with_false_keyframes)
    np.testing.assert_array_equal(decode(make_video(kind), indices).frames, expected)


def test_a_clip_checks_its_shapes(make_video):
    clip = decode(make_video(), [0, 30, 59])
    assert clip.frames.shape == (3, 64, 96, 3)
    assert repr(clip).endswith("h264-mp4.mp4: 3 frames of 96x64, 0 to 59 of 60, 0.00 to 2.36 s)")
    with pytest.raises(XViTError, match=r"expected uint8 \(T, H, W, 3\)"):
        Clip(path="a", frames=np.zeros((2, 4, 4, 3)), times=clip.times, indices=clip.indices, info=clip.info)
    with pytest.raises(XViTError, match=r"2 frames, .*: expected one time and one index per frame"):
        Clip(path="a", frames=clip.frames[:2], times=clip.times, indices=clip.indices, info=clip.info)


def test_indices_beyond_the_end_repeat_the_last_frame(make_video):
    for kind in ("h264-mp4", "mpeg4-avi"):
        clip = decode(make_video(kind), [58, 59, 60, 1000])
        assert read_numbers(clip.frames) == [58, 59, 59, 59]
        assert (clip.indices.tolist(), clip.num_repeated) == ([58, 59, 59, 59], 2)


@pytest.mark.parametrize("indices", [[], [-1], [3, -2], [[1, 2]]])
def test_indices_are_checked(indices, make_video):
    with pytest.raises(XViTError, match="expected at least one, none negative"):
        decode(make_video(), indices)


def test_choose_indices_gets_the_number_of_frames_and_may_raise(make_video):
    clip = read_clip(make_video(), lambda info: [info.num_frames // 2])
    assert read_numbers(clip.frames) == [30]

    def fail(info):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_clip(make_video(), fail)


def test_only_large_frames_are_shrunk(folder):
    path = write_video(folder / "large.mp4", frames=3, width=400, height=240)
    for short_side, size in [(100, (100, 167)), (119, (119, 198)), (120, (240, 400)), (None, (240, 400))]:
        clip = decode(path, [0, 2], short_side=short_side)
        assert tuple(clip.frames.shape[1:3]) == size
        assert read_numbers(clip.frames) == [0, 2]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation, folder):
    path = write_video(folder / f"rotated{rotation}.mp4", frames=3, rotation=rotation)
    upright = decode(write_video(folder / "upright.mp4", frames=3), [2]).frames[0]
    rotated = decode(path, [2]).frames[0]
    # set_display_rotation rotates counter-clockwise, like np.rot90
    np.testing.assert_array_equal(rotated, np.rot90(upright, rotation // 90))


def test_files_with_equal_timestamps_are_decoded_in_order(make_video, folder, monkeypatch):
    path = folder / "twice.mkv"
    with av.open(str(make_video("h264-intra"))) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts += packet.dts // packet.duration % 2 * packet.duration
                packet.stream = copy
                new.mux(packet)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert len(set(times)) < len(times) == FRAMES
    monkeypatch.setattr(video, "decode_by_seeking", None)  # must not be called
    assert read_numbers(decode(path, [2, 13, 40]).frames) == [2, 13, 40]


def test_audio_and_unusual_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write_video("audio.mp4", frames=20, audio_seconds=2).rename("http:audio %d.mp4")
    assert read_numbers(decode("http:audio %d.mp4", [4, 19]).frames) == [4, 19]


def test_titles_in_another_encoding(make_video, folder):
    path = folder / "title.mkv"
    with av.open(str(make_video())) as old, av.open(str(path), "w") as new:
        new.metadata["title"] = "Caf\u00e9"
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9\xe9"))
    assert read_numbers(decode(path, [4, 19]).frames) == [4, 19]


def test_damage_in_the_middle(make_video, folder):
    path = corrupt(folder / "noise.mp4", make_video("h264-intra"))
    assert read_numbers(decode(path, [0, 12]).frames) == [0, 12]  # intact frames can be read
    with pytest.raises(VideoError, match=r"damaged after frame \d+"):
        decode(path, range(FRAMES))
    clip = decode(path, range(FRAMES), strict=False)
    assert clip.num_damaged > 5
    assert clip.warnings[-1] == f"{clip.num_damaged} damaged frames"
    assert 30 < clip.info.num_frames < FRAMES
    assert clip.warnings[0] == f"only {clip.info.num_frames} of its {FRAMES} frames can be decoded"


@pytest.fixture
def flagged(make_video, folder) -> tuple[Path, list[int], list[int]]:
    """A video of which the decoder decodes, but flags, some frames; these frames, and the keyframes."""
    path = damage_frame(folder / "flagged.mp4", make_video(), 30)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == FRAMES
    numbers = range(FRAMES)
    return path, [n for n in numbers if frames[n].is_corrupt], [n for n in numbers if frames[n].key_frame]


def test_damaged_frames_count_where_the_clip_depends_on_them(flagged, monkeypatch):
    path, damaged, keyframes = flagged
    assert damaged
    assert 0 < damaged[0] < FRAMES - 1
    monkeypatch.setattr(video, "_SKIPPABLE", set())  # skipped frames are not decoded, so nobody knows their flags
    for indices in ([0], [damaged[0]], [damaged[-1] + 1], [FRAMES - 1], [3, 31, 33], range(FRAMES), [2, 500]):
        clip = decode(path, indices)
        needed = {n for index in clip.indices for n in range(max(k for k in keyframes if k <= index), index + 1)}
        count = len(needed & set(damaged))
        assert clip.num_damaged == count
        assert clip.warnings == ((f"{count} damaged frame{'s' if count > 1 else ''}",) if count else ())
        assert (clip.warnings == ()) == ("damaged" not in repr(clip))


def test_a_file_that_is_cut_short_is_a_warning_of_the_clip(make_video, folder):
    path = truncate(folder / "short.mp4", make_video("h264-faststart"), fraction=0.6)
    clip = decode(path, [0, 1], strict=False)
    assert clip.warnings[0] == probe(path).damage
    assert clip.warnings[0].startswith("cut short: ")


def test_packets_without_a_frame(make_video, monkeypatch):
    """Some AVI and MPEG files have a few packets without a frame; if half of them have none, the file is damaged."""
    path = make_video("mjpeg-avi")
    scan_video = video.scan_video

    def announce(num_frames):
        def scan(*args):
            result = scan_video(*args)
            info = replace(result.info, num_frames=num_frames, times=np.arange(num_frames) / 25)
            return replace(result, info=info)

        monkeypatch.setattr(video, "scan_video", scan)

    announce(FRAMES + 2)
    clip = read_clip(path, lambda info: [0, info.num_frames - 1])
    assert read_numbers(clip.frames) == [0, FRAMES - 1]
    assert (clip.info.num_frames, clip.num_repeated, clip.warnings) == (FRAMES, 0, ())
    announce(FRAMES + 5)
    clip = read_clip(path, lambda info: [0, info.num_frames - 1])
    assert clip.warnings == ("only 60 of its 65 frames can be decoded",)
    announce(2 * FRAMES)
    with pytest.raises(VideoError, match="only 60 of its 120 frames can be decoded"):
        decode(path, [100])


def test_a_change_of_frame_size_is_an_error(make_video, folder):
    large = write_video(folder / "large.ts", frames=20, width=128, height=96, kind="h264-ts")
    path = folder / "changing.ts"
    path.write_bytes(make_video("h264-ts").read_bytes() + large.read_bytes())
    with pytest.raises(VideoError, match="the frame size changes within the video, from 96x64 to 128x96"):
        decode(path, [3, 70])


def test_barcodes_are_read_as_written():
    assert [read_number(barcode_frame(number)) for number in range(1024)] == list(range(1024))


def test_hostile_bytes_raise_only_video_errors(make_video, folder):
    rng = np.random.default_rng(0)
    kinds = sorted(FORMATS)
    outcomes = []
    for number in range(120):
        kind = kinds[number % len(kinds)]
        data = bytearray(make_video(kind).read_bytes())
        if number % 3 == 0:
            data = data[: int(rng.integers(1, len(data)))]
        for position in rng.integers(0, min(len(data), 3000), 10):  # headers are at the start or at the end
            data[int(position) if number % 2 else -int(position)] = int(rng.integers(256))
        path = folder / f"hostile{FORMATS[kind].suffix}"
        path.write_bytes(data)
        try:
            outcomes.append(decode(path, [0, 20, 59], strict=number % 5 > 0).frames.shape[0])
        except VideoError as error:
            outcomes.append(error.reason)
    assert not any("\n" in str(outcome) for outcome in outcomes)
    assert len(set(outcomes)) > 10
    assert outcomes.count(3) > 20
