"""Videos in tar files: found by their headers or an index, read in place, and hostile tar files refused."""

import io
import json
import os
import random
import tarfile

import numpy as np
import pytest

from helpers.barcode_videos import FORMATS, truncate, write_frames, write_image, write_video
from helpers.shards import header, labelled, read_tar, special, write_tar
from xvit.data import shards
from xvit.data.decode import decode, probe
from xvit.data.decode.sequential import FrameReader
from xvit.data.shards import find_member, has_index, index_path, read_shard, write_index
from xvit.utils.errors import VideoError

LONG = "/".join(["a long name " * 8] * 4)  # of 391 characters
VIDEOS = {"1.mp4": b"one" * 300, "blue/2.webm": b"two", f"{LONG}/grün.MKV": b"three" * 200, "v1.5/x.y.mp4": b"four"}
LABELS = {"1": {"label": "red"}, "blue/2": 3, f"{LONG}/grün": ["a", "b"], "v1.5/x": "of the key up to the first dot"}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("indexed", [False, True])
def test_members_are_those_that_tarfile_reads(tmp_path, format, indexed):
    members = [*labelled(VIDEOS, LABELS), ("v1.5/x.json", b'"of the key up to the first dot"'), ("1.jpg", b"picture")]
    members.insert(0, (special("./blue", tarfile.DIRTYPE), b""))
    path = write_tar(tmp_path / "train.tar", members, format=format)
    if indexed:
        write_index(path)
    found = read_shard(path)
    contents = read_tar(path)
    assert list(found) == [name for name in contents if name in VIDEOS]
    for name, member in found.items():
        with member.open() as file:
            assert file.read() == contents[name] == VIDEOS[name]
        with member.load() as file:
            assert file.read() == contents[name]
        assert (member.path, member.size) == (f"{path}/{name}", len(VIDEOS[name]))
        assert find_member(member.path) == member
    assert [member.annotation for member in found.values()] == list(LABELS.values())
    assert has_index(path) == indexed


def test_a_leading_dot_and_both_kinds_of_labels(tmp_path):
    members = [("./1.mp4", b"one"), ("./1.json", b'{"duration": 3}'), ("./1.cls", b" 7\n"), ("2.mp4", b"two")]
    members += [("2.cls", b"riding a bike"), ("._3.mp4", b"of another system"), ("4.mp4", b"no label")]
    found = read_shard(write_tar(tmp_path / "a.tar", members))
    assert {name: (member.annotation, member.label) for name, member in found.items()} == {
        "1.mp4": ({"duration": 3}, 7),
        "2.mp4": (None, "riding a bike"),
        "4.mp4": (None, None),
    }


def test_a_member_as_a_file_behaves_like_bytes(tmp_path, monkeypatch):
    data = random.Random(0).randbytes(5000)
    path = write_tar(tmp_path / "a.tar", [("0.mp4", b"before"), ("1.mp4", data), ("2.mp4", b"behind")])
    member = read_shard(path)["1.mp4"]
    monkeypatch.setattr(shards, "_MAX_IN_MEMORY", 0)
    rng = random.Random(1)
    with member.load() as file, member.open(buffer_size=64) as small, io.BytesIO(data) as expected:
        assert file.name == small.name == member.path
        for _ in range(300):
            place = rng.choice([(rng.randrange(6000), 0), (rng.randrange(-300, 300), 1), (-rng.randrange(5000), 2)])
            if place[1] == 1 and expected.tell() + place[0] < 0:
                continue
            size = rng.choice([0, 1, 63, 64, 1000, 9000])
            answers = [(each.seek(*place), each.read(size), each.tell()) for each in (expected, file, small)]
            assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("at_once", [True, False])
def test_videos_decode_as_their_files(tmp_path, monkeypatch, at_once):
    """In memory, and read bit by bit as a very large one."""
    monkeypatch.setattr(shards, "_MAX_IN_MEMORY", 2**26 if at_once else 0)
    kinds = ["h264-mp4", "h264-faststart", "h264-fragmented", "h264-mkv", "h264-ts", "h264-avi", "vp8-webm", "gif"]
    files = [write_video(tmp_path / f"{kind}{FORMATS[kind].suffix}", kind=kind, frames=30) for kind in kinds]
    path = write_tar(tmp_path / "a.tar", [(file.name, file.read_bytes()) for file in files])
    for file in files:
        inside = f"{path}/{file.name}"
        infos = [probe(each) for each in (file, inside)]
        assert infos[0].times.tolist() == infos[1].times.tolist()
        assert [(info.fps, info.container, info.damage, info.num_frames) for info in infos[:1]] == [
            (info.fps, info.container, info.damage, info.num_frames) for info in infos[1:]
        ]
        clips = [decode(each, [0, 7, 29, 13]) for each in (file, inside)]
        assert np.array_equal(clips[0].frames, clips[1].frames)
        assert (clips[0].warnings, clips[1].path) == (clips[1].warnings, inside)
    readers = [FrameReader(each, stride=5) for each in (files[0], f"{path}/{files[0].name}")]
    chunks = [list(reader) for reader in readers]
    assert all(
        np.array_equal(a, b) for one, other in zip(*chunks, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_unreadable_videos_have_the_reasons_of_their_files(tmp_path):
    good = write_video(tmp_path / "good.mp4", kind="h264-faststart")
    bad = [truncate(tmp_path / "cut.mp4", good, fraction=0.6), tmp_path / "text.mp4", tmp_path / "empty.mp4"]
    bad += [tmp_path / "picture.mp4", tmp_path / "playlist.mp4"]
    bad[1].write_text("no video")
    bad[2].touch()
    write_image(tmp_path / "picture.png", np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "picture.png").rename(bad[3])
    bad[4].write_text("#EXTM3U\nhttp://127.0.0.1/1.ts\n")
    path = write_tar(tmp_path / "a.tar", [(file.name, file.read_bytes()) for file in bad])
    for file in bad:
        reasons = []
        for each in (str(file), f"{path}/{file.name}"):
            with pytest.raises(VideoError) as caught:
                decode(each, [0])
            assert caught.value.path == each
            reasons.append(caught.value.reason.replace(each, "").replace(each.rpartition(".")[0], ""))
        assert reasons[0] == reasons[1]


def test_paths_that_lead_into_no_shard(tmp_path):
    folder = tmp_path / "folder.tar"
    folder.mkdir()
    video = write_video(folder / "1.mp4", frames=2)
    frames = tmp_path / "frames.tar"
    write_frames(frames, frames=2)
    inner = write_tar(folder / "a.tar", [("1.mp4", video.read_bytes())])
    assert find_member(video) is find_member(frames) is find_member(tmp_path / "no.tar/1.mp4") is None
    assert probe(video).num_frames == probe(frames).num_frames == probe(f"{inner}/1.mp4").num_frames == 2
    with pytest.raises(VideoError, match=r"folder\.tar/a\.tar/2\.mp4: no such video in the shard$"):
        probe(f"{inner}/2.mp4")


def test_a_shard_that_is_written_again_is_read_again(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.mp4", b"one")])
    assert list(read_shard(path)) == ["1.mp4"]
    write_tar(path, [("2.mp4", b"two")])
    os.utime(path, ns=(1, 1))
    assert list(read_shard(path)) == ["2.mp4"]


def test_an_index_of_another_tar_file_is_not_used(tmp_path, caplog):
    path = write_tar(tmp_path / "a.tar", [("1.mp4", b"one")])
    write_index(path)
    write_tar(path, [(f"{number}.mp4", bytes(9000)) for number in range(3)])
    assert list(read_shard(path)) == ["0.mp4", "1.mp4", "2.mp4"]
    assert f"{index_path(path)}: not of the tar file beside it" in caplog.text
    assert not has_index(path)


@pytest.mark.parametrize(
    "video",
    [
        ["1.mp4", 0, 20_000, None, None],
        ["1.mp4", -1, 2, None, None],
        ["1.mp4", 512, True, None, None],
        ["1.mp4", "512", 2, None, None],
        ["1.mp4", 512],
        [1, 512, 2, None, None],
        None,
        "text",
    ],
)
def test_damaged_index(tmp_path, video):
    path = write_tar(tmp_path / "a.tar", [("1.mp4", b"one")])
    index_path(path).write_text(json.dumps({"bytes": path.stat().st_size, "videos": [video]}))
    with pytest.raises(VideoError, match=r"a\.index\.json: damaged: delete it, and the headers of the shard"):
        read_shard(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10_000, '{"bytes": 10240, "videos": []}', '{"bytes": 10240}'])
def test_damaged_index_files(tmp_path, text):
    path = write_tar(tmp_path / "a.tar", [("1.mp4", b"one")])
    assert path.stat().st_size == 10_240
    index_path(path).write_text(text)
    with pytest.raises(VideoError, match=r"a\.index\.json: damaged"):
        read_shard(path)


HOSTILE = {
    "1.mp4 to another folder": ([("../1.mp4", b"one")], r"a\.tar/\.\./1\.mp4: not an acceptable name"),
    "below": ([("a/../../1.json", b"1")], r"a\.tar/a/\.\./\.\./1\.json: not an acceptable name"),
    "absolute": ([("/etc/1.mp4", b"one")], r"a\.tar//etc/1\.mp4: not an acceptable name"),
    "other system": ([("a\\1.mp4", b"one")], r"a\.tar/a\\1\.mp4: not an acceptable name"),
    "link": ([(special("1.mp4", tarfile.SYMTYPE, "/etc/passwd"), b"")], r"a\.tar/1\.mp4: a link or a device"),
    "hard link": ([(special("1.mp4", tarfile.LNKTYPE, "2.mp4"), b"")], r"a\.tar/1\.mp4: a link or a device"),
    "link to a label": ([(special("1.json", tarfile.SYMTYPE, "x"), b"")], r"a\.tar/1\.json: a link or a device"),
    "device": ([(special("1.mp4", tarfile.CHRTYPE), b"")], r"a\.tar/1\.mp4: a link or a device"),
    "pipe": ([(special("1.mp4", tarfile.FIFOTYPE), b"")], r"a\.tar/1\.mp4: a link or a device"),
    "twice": ([("1.mp4", b"one"), ("1.mp4", b"two")], r"a\.tar/1\.mp4: there twice"),
    "label twice": ([("1.json", b"1"), ("1.JSON", b"1")], r"a\.tar/1\.JSON: there twice"),
    "no videos": ([("1.jpg", b"one"), ("1.json", b"{}")], r"a\.tar: no videos in it: expected members such as KEY"),
    "nothing": ([], r"a\.tar: no videos in it"),
    "no JSON": ([("1.mp4", b"one"), ("1.json", b"{")], r"a\.tar/1\.json: not readable: Expecting"),
    "no numbers": ([("1.mp4", b"one"), ("1.json", b'{"label": NaN}')], r"a\.tar/1\.json: not readable: NaN"),
    "deep JSON": ([("1.mp4", b"one"), ("1.json", b"[" * 5000)], r"a\.tar/1\.json: not readable: nested"),
    "no text": ([("1.mp4", b"one"), ("1.cls", b"\xff\xfe")], r"a\.tar/1\.cls: not readable: 'utf-8'"),
    "huge label": ([("1.json", bytes(2**20 + 1))], r"a\.tar/1\.json: an annotation of 1,048,577 bytes"),
    "zero byte": ([("1\0.mp4", b"one")], r"a\.tar/1"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members(tmp_path, case):
    members, message = HOSTILE[case]
    path = write_tar(tmp_path / "a.tar", members)
    if case == "zero byte":
        path.write_bytes(header("x", size=b"00000000017", kind=b"x") + b"16 path=1\0.mp4\n".ljust(512, b"\0"))
        path.write_bytes(path.read_bytes() + header("x", size=b"0") + bytes(1024))
    with pytest.raises(VideoError, match=message):
        read_shard(path)
    assert os.listdir(tmp_path) == ["a.tar"]


NO_TAR = {
    "text": (b"This is no tar file.\n" * 100, r"a\.tar: not a tar file"),
    "empty": (b"", r"a\.tar: not a tar file \(empty file\)"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), r"a\.tar: compressed with gzip: .*: decompress it first"),
    "bzip2": (b"BZh9" + bytes(100), r"a\.tar: compressed with bzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(100), r"a\.tar: compressed with xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), r"a\.tar: compressed with zstd"),
    "size": (header("1.mp4", size=b"77777777777") + bytes(2048), r"1\.mp4: cut short: 2048 of its 8589934591 bytes"),
    "huge size": (header("1.mp4", size=b"\x80" + b"\x7f" * 11) + bytes(2048), r"1\.mp4: cut short: 2048 of its "),
    "negative size": (header("1.mp4", size=b"\xff" * 11 + b"\0") + bytes(2048), r"1\.mp4: cut short"),
    "long header": (header("1", size=b"77777777777", kind=b"x") + bytes(9999), r"a\.tar: .*a header that is too long"),
    "long name": (header("1", size=b"00000100000", kind=b"L") + bytes(99999), r"a\.tar: .*a header that is too long"),
    "long headers": (
        (header("1", size=b"00000010000", kind=b"x") + b"16 comment=1234\n".ljust(4096, b"\0") + header("1", size=b"0"))
        * 4097
        + bytes(1024),
        r"a\.tar: .*too many long headers",
    ),
    "negative header": (header("1", size=b"\xff" * 12, kind=b"x") + bytes(9999), r"a\.tar: .*"),
    "headers of headers": (header("1", size=b"0", kind=b"x") * 5000 + bytes(1024), r"a\.tar: .*"),
    "sparse": (header("1.mp4", size=b"00000001000", kind=b"S") + bytes(2048), r"1\.mp4: a sparse file"),
}


@pytest.mark.parametrize("case", NO_TAR)
def test_no_tar_files(tmp_path, case):
    data, message = NO_TAR[case]
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(VideoError, match=message):
        read_shard(path)


def test_missing_shard_and_folder(tmp_path):
    with pytest.raises(VideoError, match=r"a\.tar: no such file$"):
        read_shard(tmp_path / "a.tar")
    with pytest.raises(VideoError, match=r": not readable \(Is a directory\)$"):
        read_shard(tmp_path)


def test_a_shard_that_is_cut_short_anywhere(tmp_path):
    """Also between two members, where tarfile ends without an error."""
    videos = {f"{number}.mp4": bytes([65 + number]) * 700 for number in range(3)}
    path = write_tar(tmp_path / "a.tar", labelled(videos, {str(number): number for number in range(3)}))
    data = path.read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512  # of the last member
    for size in [*range(0, end, 512), *range(100, end, 1024), end, end + 511]:
        path.write_bytes(data[:size])
        with pytest.raises(VideoError, match=r"a\.tar"):
            read_shard(path)
    path.write_bytes(data[: end + 512])
    assert len(read_shard(path)) == 3


def test_random_damage_gives_an_error_or_members_inside_the_file(tmp_path):
    path = write_tar(tmp_path / "a.tar", labelled(VIDEOS, LABELS))
    data, rng, damaged = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3, 30])):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            members = shards.scan_shard(path)
        except VideoError:
            damaged += 1
        else:
            assert all(0 <= m.offset <= m.offset + m.size <= len(data) for m in members.values())
    assert damaged > 100


def test_a_recording_whose_first_header_comes_late(tmp_path):
    """FFmpeg opens it twice: at first it looks into 5 MB or some seconds only."""
    whole = write_video(tmp_path / "whole.ts", kind="h264-one-keyframe", frames=60).read_bytes()
    cut = whole[len(whole) // 10 // 188 * 188 :]
    data = cut * (6_000_000 // len(whole) + 1) + whole
    info = probe(f"{write_tar(tmp_path / 'a.tar', [('cut.ts', data)])}/cut.ts")
    assert (info.num_frames, info.num_leading > 60) == (60, True)
