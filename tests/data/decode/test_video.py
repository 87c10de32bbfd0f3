import pickle
import socket
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.barcode_videos import (
    FORMATS,
    barcode_frame,
    corrupt,
    read_number,
    read_numbers,
    truncate,
    write_audio,
    write_video,
)
from helpers.barcode_videos import write_edit_list as hide_first_frames
from xvit.data.decode import video
from xvit.data.decode.probe import reasons
from xvit.data.decode.video import Clip, decode, probe, read_clip
from xvit.utils.errors import VideoError, XViTError

FRAMES = 60
# Written as one packet a frame with a timestamp each, so that the quick way must be taken, not just agree.
QUICK = {kind for kind in FORMATS if kind.startswith(("h264", "hevc", "vp9", "av1"))} - {"h264-ts", "h264-avi"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def make(folder):
    def make(kind: str = "h264-mp4") -> Path:
        path = folder / (kind + FORMATS[kind].suffix)
        return path if path.exists() else write_video(path, frames=FRAMES, kind=kind)

    return make


def reference(path: Path) -> list[np.ndarray]:
    """All frames, (H, W, C) each, decoded in the plainest way."""
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
            for frame in container.decode(video=0)
        ]


def draws(total: int, number: int):
    """Sets of indices as training and testing ask for them, and odder ones."""
    rng = np.random.default_rng(0)
    yield [total - 1]
    yield [7, 3, 3, 40, 0]
    yield np.arange(total)
    for _ in range(number):
        yield np.sort(rng.integers(0, total, 8))
        yield np.minimum(rng.integers(0, total) + rng.integers(1, 5) * np.arange(8), total - 1)


@pytest.mark.parametrize("kind", FORMATS)
def test_frames_are_the_ones_asked_for_both_ways(kind, make, monkeypatch):
    path = make(kind)
    pictures = reference(path)
    assert [read_number(picture) for picture in pictures] == list(range(FRAMES))
    ways = []
    quick = video._decode_selected
    monkeypatch.setattr(video, "_decode_selected", lambda *args: ways.append(quick(*args)) or ways[-1])
    clips = [(indices, decode(path, indices)) for indices in draws(FRAMES, 6)]
    assert len(ways) == (len(clips) if kind in QUICK else 0)
    assert all(way is not None for way in ways)
    monkeypatch.setattr(video, "_decode_selected", lambda *args: None)
    for indices, clip in clips:
        expected = np.stack([pictures[index] for index in indices])
        np.testing.assert_array_equal(clip.frames.permute(0, 2, 3, 1), expected)
        assert clip.indices.tolist() == list(indices)
        np.testing.assert_allclose(clip.times, clip.indices / 25, atol=2e-3)
    np.testing.assert_array_equal(decode(path, indices).frames, clip.frames)


@pytest.mark.parametrize(
    ("kind", "indices", "most"),
    [
        ("h264-mp4", [50], 12),  # seeks to frame 48
        ("h264-mp4", [2, 50], 20),  # and does so after another one
        ("h264-one-keyframe", [50], 40),  # skips what nothing refers to
    ],
)
def test_quick_way_decodes_less(kind, indices, most, make, monkeypatch):
    seen = []
    see = video._Pictures.see
    monkeypatch.setattr(video._Pictures, "see", lambda self, frame: seen.append(frame.pts) or see(self, frame))
    decode(make(kind), indices)
    assert len(seen) < most


@pytest.mark.parametrize("kind", FORMATS)
def test_probe_counts(kind, make):
    info = probe(make(kind))
    assert (info.num_frames, info.width, info.height, info.damage) == (FRAMES, 96, 64, "")
    assert info.fps == pytest.approx(25, rel=0.01)
    assert info.duration == pytest.approx(FRAMES / 25, rel=0.01)
    assert info.times.shape == (FRAMES,)


def test_clip_is_a_view_that_prints_and_checks_itself(make):
    clip = decode(make(), [0, 30, 59])
    assert clip.frames.shape == (3, 3, 64, 96)
    assert clip.frames.permute(0, 2, 3, 1).is_contiguous()
    assert repr(clip).endswith("h264-mp4.mp4: 3 frames of 96x64, 0 to 59 of 60, 0.00 to 2.36 s)")
    with pytest.raises(XViTError, match=r"expected torch.uint8 \(T, 3, H, W\)"):
        Clip(path="a", frames=torch.zeros(2, 3, 4, 4), times=clip.times, indices=clip.indices, info=clip.info)
    with pytest.raises(XViTError, match="expected as many"):
        Clip(path="a", frames=clip.frames[:2], times=clip.times, indices=clip.indices, info=clip.info)


def test_beyond_the_end_the_last_frame_is_repeated_and_counted(make):
    for kind in ("h264-mp4", "mpeg4-avi"):
        clip = decode(make(kind), [58, 59, 60, 1000])
        assert read_numbers(clip.frames) == [58, 59, 59, 59]
        assert (clip.indices.tolist(), clip.repeated) == ([58, 59, 59, 59], 2)


@pytest.mark.parametrize("indices", [[], [-1], [3, -2], [[1, 2]]])
def test_indices_are_checked(indices, make):
    with pytest.raises(XViTError, match="expected at least one, none negative"):
        decode(make(), indices)


def test_choose_is_told_the_number_of_frames_and_its_errors_pass(make):
    clip = read_clip(make(), lambda info: [info.num_frames // 2])
    assert read_numbers(clip.frames) == [30]

    def wrong(info):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_clip(make(), wrong)


def test_large_pictures_are_shrunk_small_ones_are_not(folder):
    path = write_video(folder / "large.mp4", frames=3, width=400, height=240)
    for short_side, size in [(100, (100, 167)), (119, (119, 198)), (120, (240, 400)), (None, (240, 400))]:
        clip = decode(path, [0, 2], short_side=short_side)
        assert tuple(clip.frames.shape[-2:]) == size
        assert read_numbers(clip.frames) == [0, 2]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(rotation, folder):
    path = write_video(folder / f"turned{rotation}.mp4", frames=3, rotation=rotation)
    upright = decode(write_video(folder / "upright.mp4", frames=3), [2]).frames[0].permute(1, 2, 0).numpy()
    turned = decode(path, [2]).frames[0].permute(1, 2, 0).numpy()
    # set_display_rotation turns counter-clockwise, as np.rot90 does
    np.testing.assert_array_equal(turned, np.rot90(upright, rotation // 90))


def test_uneven_times_come_from_the_timestamps(folder):
    pts = np.cumsum(1 + np.arange(20) % 7).tolist()  # in hundredths of a second
    clip = decode(write_video(folder / "uneven.mp4", frames=20, pts=pts), [0, 5, 19])
    assert read_numbers(clip.frames) == [0, 5, 19]
    np.testing.assert_allclose(clip.times, [(pts[i] - pts[0]) / 100 for i in (0, 5, 19)], atol=1e-3)


def test_edit_list_hides_frames(make, folder):
    path = hide_first_frames(folder / "edited.mp4", make(), skip=17)
    assert probe(path).num_frames == FRAMES - 17
    for indices in ([0], [3, 20], [FRAMES - 18], [1000]):
        clip = decode(path, indices)
        assert read_numbers(clip.frames) == [17 + min(index, FRAMES - 18) for index in indices]


def test_equal_timestamps_are_read_in_order(make, folder, monkeypatch):
    path = folder / "twice.mkv"
    with av.open(str(make("h264-intra"))) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts += packet.dts // packet.duration % 2 * packet.duration
                packet.stream = copy
                new.mux(packet)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert len(set(times)) < len(times) == FRAMES
    monkeypatch.setattr(video, "_decode_selected", None)  # not to be called
    assert read_numbers(decode(path, [2, 13, 40]).frames) == [2, 13, 40]


def test_sound_and_odd_names_do_no_harm(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write_video("sound.mp4", frames=20, audio_seconds=2).rename("http:sound %d.mp4")
    assert read_numbers(decode("http:sound %d.mp4", [4, 19]).frames) == [4, 19]


def test_what_pyav_raises_on_damaged_files_is_one_error():
    for error in (
        IndexError("list index out of range"),
        ZeroDivisionError(),
        UnicodeDecodeError("utf-8", b"", 0, 1, ""),
    ):
        with pytest.raises(VideoError, match=r"a\.mp4: unreadable"), reasons("a.mp4", "unreadable"):
            raise error


def test_titles_in_another_encoding_do_no_harm(make, folder):
    path = folder / "title.mkv"
    with av.open(str(make())) as old, av.open(str(path), "w") as new:
        new.metadata["title"] = "Caf\u00e9"
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9\xe9"))
    assert read_numbers(decode(path, [4, 19]).frames) == [4, 19]


def test_mkv_whose_sound_is_longer_is_whole(folder):
    path = write_video(folder / "longsound.mkv", frames=20, kind="h264-mkv", audio_seconds=4)
    assert probe(path).damage == ""


def bad_files(folder: Path, whole: Path) -> dict[str, Path]:
    (folder / "folder.mp4").mkdir(exist_ok=True)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 400)
    (folder / "text.ans").write_text("no video\n" * 400)
    (folder / "script.mp4").write_text(f"ffconcat version 1.0\nfile {whole.name}\n")
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{whole.name}\n#EXT-X-ENDLIST\n")
    return {
        "missing": folder / "missing.mp4",
        "folder": folder / "folder.mp4",
        "empty": folder / "empty.mp4",
        "text": folder / "text.mp4",
        "terminal": folder / "text.ans",
        "script": folder / "script.mp4",
        "play list": folder / "list.mp4",
        "sound": write_audio(folder / "sound.mp4"),
        "no index": truncate(folder / "noindex.mp4", whole, share=0.5),
        "half an index": truncate(folder / "halfindex.mp4", whole, share=0.9),
    }


REASONS = {
    "missing": "no such file",
    "folder": "a folder without videos or pictures of one",
    "empty": r"an empty file \(0 bytes\)",
    "text": "not a readable video file, or cut short",
    "terminal": "not a readable video file, or cut short",
    "script": "not a readable video file, or cut short",
    "play list": "not a readable video file, or cut short",
    "sound": "no video in it, only sound",
    "no index": "not a readable video file, or cut short",
    "half an index": "no decoder for its video, or its header is damaged",
}


@pytest.mark.parametrize("what", REASONS)
def test_bad_files_give_one_clear_line(what, make, folder):
    path = bad_files(folder, make())[what]
    for read in (probe, lambda path: decode(path, [0]), lambda path: decode(path, [0], strict=False)):
        with pytest.raises(VideoError, match=REASONS[what]) as caught:
            read(path)
        error = pickle.loads(pickle.dumps(caught.value))
        assert error.path == str(path)
        assert "\n" not in str(error)


def test_special_files_are_refused(folder):
    with socket.socket(socket.AF_UNIX) as server:
        path = Path("socket.mp4")
        server.bind(str(path))
        try:
            with pytest.raises(VideoError, match="not a regular file"):
                probe(path)
        finally:
            path.unlink()


@pytest.mark.parametrize("kind", ["h264-faststart", "h264-fragmented", "h264-mkv", "vp9-webm", "h264-avi"])
def test_cut_short(kind, make, folder):
    path = truncate(folder / f"cut{FORMATS[kind].suffix}", make(kind), share=0.6)
    info = probe(path)
    assert info.damage.startswith("cut short: ")
    assert 20 < info.num_frames < 50
    with pytest.raises(VideoError, match=r"cut short: \d.* are there"):
        decode(path, [0])
    clip = decode(path, [0, 5, 10, 1000], strict=False)
    assert read_numbers(clip.frames)[:3] == [0, 5, 10]
    assert clip.repeated == 1


def test_damage_inside(make, folder):
    path = corrupt(folder / "noise.mp4", make("h264-intra"))
    assert read_numbers(decode(path, [0, 12]).frames) == [0, 12]  # what is whole can be had
    with pytest.raises(VideoError, match=r"damaged after frame \d+"):
        decode(path, range(FRAMES))
    clip = decode(path, range(FRAMES), strict=False)
    assert clip.damaged > 5
    assert 30 < clip.info.num_frames < FRAMES


def test_packets_without_a_picture(make, monkeypatch):
    """Some AVI and MPEG files hold a few packets too many; half too many is damage."""
    path = make("mjpeg-avi")
    scanned = video.Scan.__init__

    def promise(number):
        def scan(self, *args):
            scanned(self, *args)
            self.info = video.replace(self.info, num_frames=number, times=np.arange(number) / 25)

        monkeypatch.setattr(video.Scan, "__init__", scan)

    promise(FRAMES + 2)
    clip = read_clip(path, lambda info: [0, info.num_frames - 1])
    assert read_numbers(clip.frames) == [0, FRAMES - 1]
    assert (clip.info.num_frames, clip.repeated) == (FRAMES, 0)
    promise(2 * FRAMES)
    with pytest.raises(VideoError, match="only 60 of its 120 frames can be decoded"):
        decode(path, [100])


def test_a_change_of_size_is_an_error(make, folder):
    large = write_video(folder / "large.ts", frames=20, width=128, height=96, kind="h264-ts")
    path = folder / "changing.ts"
    path.write_bytes(make("h264-ts").read_bytes() + large.read_bytes())
    with pytest.raises(VideoError, match="the picture size changes within the video, from 96x64 to 128x96"):
        decode(path, [3, 70])


def test_a_ribbon_is_no_video(folder):
    path = write_video(folder / "ribbon.mp4", frames=2, width=1056, height=32)
    with pytest.raises(VideoError, match="1056x32"):
        probe(path)


def test_barcodes_survive_themselves():
    assert [read_number(barcode_frame(number)) for number in range(1024)] == list(range(1024))


def test_hostile_bytes_raise_nothing_else(make, folder):
    rng = np.random.default_rng(0)
    kinds = sorted(FORMATS)
    outcomes = []
    for number in range(120):
        kind = kinds[number % len(kinds)]
        data = bytearray(make(kind).read_bytes())
        if number % 3 == 0:
            data = data[: int(rng.integers(1, len(data)))]
        for place in rng.integers(0, min(len(data), 3000), 10):  # headers are at the beginning or at the end
            data[int(place) if number % 2 else -int(place)] = int(rng.integers(256))
        path = folder / f"hostile{FORMATS[kind].suffix}"
        path.write_bytes(data)
        try:
            outcomes.append(decode(path, [0, 20, 59], strict=number % 5 > 0).frames.shape[0])
        except VideoError as error:
            outcomes.append(error.reason)
    assert not any("\n" in str(outcome) for outcome in outcomes)
    assert len(set(outcomes)) > 10
    assert outcomes.count(3) > 20
