"""Packing a data set: the same samples and bytes, shards that WebDataset reads, restarts, hostile names."""

import json
import os
import warnings
from collections import Counter

import pytest

from helpers.barcode_videos import write_frames
from helpers.files import limited_file_size
from helpers.shards import read_tar
from xvit.config import DataConfig
from xvit.data.annotations import DatasetSplits, Sample, load_splits
from xvit.data.seen import count_seen, fingerprint_splits
from xvit.data.shards import open_file, read_shard
from xvit.data.tools import pack
from xvit.data.tools.check import check_dataset, write_usable_annotations
from xvit.data.tools.pack import pack_splits
from xvit.utils.errors import VideoError, WriteError, XViTError

CLASS_NAMES = ["a b", "ü", "[Something] falling"]


def write_files(root, *, train=10, val=3, size=1000):
    """A data set of files of random bytes: packing does not look into them."""
    splits = {}
    for split, count in (("train", train), ("val", val)):
        splits[split] = []
        for number in range(count):
            path = root / split / CLASS_NAMES[number % 3] / f"{number}.5x.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size + number))
            splits[split].append(Sample(path=str(path), label=number % 3, id=path.relative_to(root).as_posix()))
    return DatasetSplits(**splits, class_names=CLASS_NAMES)


def load(root, **settings):
    return load_splits(DataConfig(root=str(root), format="webdataset", **settings))


def contents_of(samples):
    """Label, segment and bytes of each sample, by id."""
    found = {}
    for sample in samples:
        with open_file(sample.path) as file:
            found[sample.id] = sample.label, sample.start, sample.stop, file.read()
    return found


def test_packed_samples_are_those_of_the_data_set(tmp_path):
    splits, progress = write_files(tmp_path / "videos"), []
    result = pack_splits(
        splits, tmp_path / "out", shard_size=3100, on_progress=lambda done, total: progress.append((done, total))
    )
    packed = load(tmp_path / "out")
    assert packed.class_names == splits.class_names
    for name, samples in splits.by_name.items():
        assert contents_of(packed.by_name[name]) == contents_of(samples)
    assert [sample.id for sample in packed.val] == [sample.id for sample in splits.val]
    assert [sample.id for sample in packed.train] != [sample.id for sample in splits.train]
    assert (result.shards, result.written, result.videos) == ({"train": 4, "val": 1}, 5, 13)
    assert result.bytes == sum(os.path.getsize(sample.path) for sample in splits.train + splits.val)
    assert progress == [(done, 13) for done in range(1, 14)]
    sizes = [sum(member.size for member in read_shard(path).values()) for path in (tmp_path / "out").glob("*.tar")]
    assert max(sizes) <= 3100
    assert count_seen({"data": {"train": 10, "val": 3, "fingerprints": fingerprint_splits(splits)}}, packed.train) == {
        "train": 10
    }


def test_the_same_videos_give_the_same_shards(tmp_path):
    splits = write_files(tmp_path / "videos")
    contents = []
    for output in (tmp_path / "a", tmp_path / "b"):
        pack_splits(splits, output, shard_size=3100)
        contents.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5 * 2 + 2


def test_webdataset_reads_the_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    splits = write_files(tmp_path / "videos")
    pack_splits(splits, tmp_path / "out", shard_size=3100)
    urls = str(tmp_path / "out" / "train-{000000..000003}.tar")
    with warnings.catch_warnings(action="ignore"):  # it leaves files open
        samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    found = {sample["json"]["id"]: (sample["json"]["label"], sample["mp4"]) for sample in samples}
    assert found == {id: (CLASS_NAMES[label], data) for id, (label, _, _, data) in contents_of(splits.train).items()}
    assert len({sample["__key__"] for sample in samples}) == 10


def test_shards_that_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    written = {f"train/{number:03d}": (number % 3, os.urandom(2000)) for number in range(7)}
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=3, verbose=0) as writer:
        for key, (label, data) in written.items():
            writer.write({"__key__": key, "mp4": data, "cls": label})
    with webdataset.TarWriter(str(tmp_path / "val.tar")) as writer:
        for key, (label, data) in written.items():
            writer.write({"__key__": key, "json": {"label": label, "width": 3}, "webm": data})
    data = load(tmp_path)
    assert data.class_names == ["0", "1", "2"]
    for split, suffix in (("train", "mp4"), ("val", "webm")):
        found = {id.partition(".tar/")[2]: rest for id, rest in contents_of(data.by_name[split]).items()}
        assert found == {f"{key}.{suffix}": (label, None, None, data) for key, (label, data) in written.items()}


def test_tasks_segments_and_several_labels(tmp_path):
    """Each video is packed once, with all its segments."""
    write_files(tmp_path / "videos", train=3, val=0)
    paths = sorted(str(path) for path in (tmp_path / "videos").rglob("*.mp4"))
    names = {"verb": ["open", "close"], "noun": ["door", "cup"]}
    rows = [(0, 1, 0, 0.0, 1.5), (1, 0, 1, 2.0, 3.0), (0, 0, 0, 1.0, 2.5)]
    samples = [
        Sample(path=paths[i], label={"verb": v, "noun": n}, id=f"P_{j}", start=a, stop=b)
        for j, (i, v, n, a, b) in enumerate(rows)
    ]
    pack_splits(DatasetSplits(train=samples, val=samples[:1], class_names=names), tmp_path / "a")
    packed = load(tmp_path / "a")
    assert packed.class_names == names
    assert contents_of(packed.train) == contents_of(samples)
    assert Counter(sample.path for sample in packed.train).most_common(1)[0][1] == 2
    assert len(read_tar(tmp_path / "a/train-000000.tar")) == 2 * 2
    several = [Sample(path=path, label=label, id=path) for path, label in zip(paths, [(0, 2), (), (1,)], strict=True)]
    pack_splits(DatasetSplits(train=several, val=[], class_names=CLASS_NAMES), tmp_path / "b")
    assert contents_of(load(tmp_path / "b", multi_label=True).train) == contents_of(several)
    unknown = [Sample(path=path, label=None, id=path) for path in paths]
    pack_splits(DatasetSplits(train=[], val=[], test=unknown, class_names=[]), tmp_path / "c")
    assert contents_of(load(tmp_path / "c").test) == contents_of(unknown)


def test_shards_can_be_packed_again_in_another_size(tmp_path):
    splits = write_files(tmp_path / "videos")
    pack_splits(splits, tmp_path / "a", shard_size=3100)
    result = pack_splits(load(tmp_path / "a"), tmp_path / "b")
    assert result.shards == {"train": 1, "val": 1}
    assert contents_of(load(tmp_path / "b").train) == contents_of(splits.train)


def test_an_interrupted_packing_goes_on(tmp_path, monkeypatch):
    """Stopped within each shard in turn; no half-written file has the name of a shard."""
    splits, output = write_files(tmp_path / "videos"), tmp_path / "out"
    for stop in (2, 5, 9, 13):

        def interrupt(done, total, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack_splits(splits, output, shard_size=3100, on_progress=interrupt)
        for path in output.glob("*.tar"):
            assert len(read_shard(path)) > 0
        assert not list(output.glob(".*.part"))
    monkeypatch.setattr(pack, "write_index", lambda path: 1 / 0)  # killed between a shard and its index
    with pytest.raises(ZeroDivisionError):
        pack_splits(splits, output, shard_size=3100)
    monkeypatch.undo()
    (output / ".val-000000.tar.part").write_bytes(b"of a process that was killed")
    result = pack_splits(splits, output, shard_size=3100)
    assert (result.written, result.videos) == (1, 13)
    pack_splits(splits, tmp_path / "whole", shard_size=3100)
    whole, resumed = ({path.name: path.read_bytes() for path in d.iterdir()} for d in (tmp_path / "whole", output))
    assert whole == resumed
    assert pack_splits(splits, output, shard_size=3100).written == 0


def test_other_videos_or_another_size_need_another_output(tmp_path):
    splits = write_files(tmp_path / "videos")
    pack_splits(splits, tmp_path / "out")
    with pytest.raises(XViTError, match=r"out: has shards of other videos or another size: choose another --output$"):
        pack_splits(splits, tmp_path / "out", shard_size=3100)
    with open(splits.train[0].path, "ab") as file:
        file.write(b"more")
    with pytest.raises(XViTError, match=r"out: has shards of other videos"):
        pack_splits(splits, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(XViTError, match="exists and is not an empty directory"):
        pack_splits(splits, tmp_path / "full")
    with pytest.raises(XViTError, match="shard_size=0: expected"):
        pack_splits(splits, tmp_path / "new", shard_size=0)


def test_videos_that_cannot_be_packed_are_named(tmp_path, monkeypatch):
    splits = write_files(tmp_path / "videos", train=6, val=0, size=40_000)
    write_frames(tmp_path / "frames", frames=2)
    (tmp_path / "empty.mp4").touch()
    bad = {"frames": "a folder of frames is not packed", "empty.mp4": r"the file is empty", "none.mp4": "not readable"}
    splits.train[1:1] = [Sample(path=str(tmp_path / name), label=0, id=name) for name in bad]
    shrinking, growing, broken = (splits.train[index].path for index in (0, 5, 8))
    read, measure = pack._Source.read, pack._measure

    def fail_in_the_middle(source, size=-1):
        if source._video.path == broken and source._left < 30_000:
            source._call(lambda: os.read(-1, 1))
        return read(source, size)

    def measure_before_a_change(path):
        size = measure(path)
        return size if isinstance(size, VideoError) else size + {shrinking: 1, growing: -1}.get(path, 0)

    monkeypatch.setattr(pack._Source, "read", fail_in_the_middle)
    monkeypatch.setattr(pack, "_measure", measure_before_a_change)
    result = pack_splits(splits, tmp_path / "out")
    reasons = {os.path.basename(error.path): error.reason for error in result.failures}
    for name, reason in bad.items():
        assert reasons.pop(name).startswith(reason)
    assert reasons == {
        os.path.basename(shrinking): "its size changed while it was packed",
        os.path.basename(growing): "its size changed while it was packed",
        os.path.basename(broken): "not readable (Bad file descriptor)",
    }
    assert contents_of(load(tmp_path / "out").train) == contents_of([splits.train[index] for index in (4, 6, 7)])
    again = pack_splits(splits, tmp_path / "out")
    assert (again.written, again.videos, len(again.failures)) == (0, 3, 6)
    assert sum("could not be read when train-000000.tar was written" in error.reason for error in again.failures) == 3


def test_no_video_that_can_be_packed(tmp_path):
    (tmp_path / "1.mp4").touch()
    sample = Sample(path=str(tmp_path / "1.mp4"), label=0, id="1.mp4")
    with pytest.raises(VideoError, match=r"1\.mp4: the file is empty"):
        pack_splits(DatasetSplits(train=[sample], val=[], class_names=["a"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk(tmp_path):
    splits = write_files(tmp_path / "videos", size=50_000)
    with limited_file_size(120_000), pytest.raises(WriteError, match=r"train-000000\.tar: cannot be written"):
        pack_splits(splits, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".pack.json", "labels.json"]
    assert pack_splits(splits, tmp_path / "out").written == 2


@pytest.mark.parametrize(
    "id",
    ["../../etc/x.mp4", "/x.mp4", "a.b/c.d.mp4", "..", "a\nb.mp4", "__x__.mp4", "\udce9.mp4", "x" * 4000, "a\\b.mp4"],
)
def test_ids_of_any_kind(tmp_path, id):
    webdataset = pytest.importorskip("webdataset")
    for name in ("1.mp4", "2.MKV", "3.bin"):
        (tmp_path / name).write_bytes(name.encode())
    samples = [Sample(path=str(tmp_path / name), label=0, id=id) for name in ("1.mp4", "2.MKV", "3.bin")]
    pack_splits(DatasetSplits(train=[], val=samples, class_names=["a"]), tmp_path / "out")
    packed = load(tmp_path / "out")
    assert [sample.id for sample in packed.val] == [id] * 3
    names = list(read_shard(tmp_path / "out/val-000000.tar"))
    assert [os.path.splitext(name)[1] for name in names] == [".mp4", ".mkv", ".mp4"]
    assert len(set(names)) == 3
    with warnings.catch_warnings(action="ignore"):
        found = list(webdataset.WebDataset(str(tmp_path / "out/val-000000.tar"), shardshuffle=False))
    assert [(json.loads(sample["json"])["id"], len(sample)) for sample in found] == [(id, 5)] * 3


def test_check_names_damaged_members_and_writes_lists_of_the_others(tmp_path, videos):
    splits = load_splits(DataConfig(root=str(videos)))
    (tmp_path / "text.mp4").write_text("no video")
    splits.train.append(Sample(path=str(tmp_path / "text.mp4"), label=0, id="text.mp4"))
    splits.val.append(splits.train[0])
    pack_splits(splits, tmp_path / "out")
    config = DataConfig(root=str(tmp_path / "out"), format="webdataset")
    packed = load_splits(config)
    report = check_dataset(packed)
    assert [(problem.id, problem.kind) for problem in report.problems] == [("text.mp4", "unreadable")]
    assert report.problems[0].path == f"{tmp_path}/out/train-000000.tar/text.mp4"
    assert len(report.copies) == 1
    settings = write_usable_annotations(report, config, tmp_path)
    lists = {name: str(tmp_path / settings[name]) for name in ("train", "val", "label_files")}
    listed = load_splits(DataConfig(root=config.root, format="list", **lists))
    usable = [sample for sample in packed.train if sample.id != "text.mp4"]
    assert [(sample.path, sample.label) for sample in listed.train] == [(s.path, s.label) for s in usable]
