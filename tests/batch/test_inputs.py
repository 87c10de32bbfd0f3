"""Lists of inputs."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.files import touch, write
from helpers.shards import write_tar
from xvit.batch.inputs import locate, read_inputs
from xvit.utils.errors import XViTError


def test_a_text_file_has_a_path_or_an_address_per_line(tmp_path):
    list_file = tmp_path / "list.txt"
    list_file.write_bytes("\ufeffa b.mp4\r\n\r\n/tmp/é.mp4\n".encode() + b"\xff.mp4\ns3://bucket/c d.mp4\na b.mp4")
    touch(tmp_path, "a b.mp4")
    inputs = read_inputs(list_file)
    assert inputs.paths == ["a b.mp4", "/tmp/é.mp4", os.fsdecode(b"\xff.mp4"), "s3://bucket/c d.mp4", "a b.mp4"]
    assert inputs.folder == str(tmp_path)
    found = [locate(path, inputs.folder) for path in inputs.paths]
    assert found[0] == str(tmp_path / "a b.mp4")
    assert found[1] == "/tmp/é.mp4"
    assert found[3] == "s3://bucket/c d.mp4"


def test_relative_paths(tmp_path, monkeypatch):
    """They are relative to the folder of the list, unless they are found in the working directory only."""
    work, lists = tmp_path / "work", tmp_path / "lists"
    touch(work, "a.mp4", "c.mp4")
    touch(lists, "a.mp4")
    monkeypatch.chdir(work)
    for text, folder in [("a.mp4\nb.mp4\n", lists), ("b.mp4\nc.mp4\n", work), ("b.mp4\n", lists)]:
        assert read_inputs(write(lists / "list.txt", text)).folder == str(folder)


def test_a_folder_holds_videos(tmp_path):
    touch(tmp_path, "b/2.mp4", "a/1.mp4", "notes.doc")
    assert read_inputs(tmp_path).paths == [str(tmp_path / "a/1.mp4"), str(tmp_path / "b/2.mp4")]


def test_videos_in_shards(tmp_path, monkeypatch):
    """Of a shard, of a folder of shards, and in a list."""
    shard = write_tar(tmp_path / "shards/a.tar", [("1.mp4", b"one"), ("x/2.mp4", b"two")])
    inside = [f"{shard}/1.mp4", f"{shard}/x/2.mp4"]
    assert read_inputs(shard).paths == read_inputs(shard.parent).paths == inside
    monkeypatch.chdir(tmp_path)
    for name, folder in (("a.tar/1.mp4", shard.parent), ("shards/a.tar/1.mp4", tmp_path)):
        assert read_inputs(write(shard.parent / "list.txt", f"{name}\n")).folder == str(folder)


def test_parquet_and_text_are_the_same(tmp_path):
    paths = [f"/videos/{number}.mp4" for number in range(5)]
    pq.write_table(pa.table({"label": range(5), "path": paths}), tmp_path / "list.parquet")
    inputs = read_inputs(tmp_path / "list.parquet")
    assert inputs == read_inputs(write(tmp_path / "list.txt", "\n".join(paths)))
    assert inputs.hash != read_inputs(write(tmp_path / "list.txt", "\n".join(paths[::-1]))).hash


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"video": ["a"]}, "expected one column .path.: it has video"),
        ({"path": ["a", None]}, "1 rows without a path"),
        ({"path": ["a", ""]}, "row 1: path is '': expected text"),
        ({"path": [1, 2]}, "row 0: path is 1: expected text"),
        ({"path": ["a", "b\0c"]}, "row 1: path is 'b\\\\x00c': expected text"),
        ({"path": [{"path": "a"}]}, "row 0: path is {'path': 'a'}: expected text"),
        ({"path": [b"a"]}, "row 0: path is b'a': expected text"),
        ({"path": pa.array([], pa.string())}, "no inputs"),
    ],
)
def test_wrong_parquet(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    with pytest.raises(XViTError, match=message):
        read_inputs(tmp_path / "list.parquet")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_types_of_text_in_parquet(tmp_path, kind):
    pq.write_table(pa.table({"path": pa.array(["/b.mp4", "/a.mp4", "/b.mp4"]).cast(kind)}), tmp_path / "list.parquet")
    assert read_inputs(tmp_path / "list.parquet").paths == ["/b.mp4", "/a.mp4", "/b.mp4"]


def test_columns_of_parquet_that_cannot_be_read(tmp_path):
    column = pa.array(["a"])
    pq.write_table(pa.table([column, column], names=["path", "path"]), tmp_path / "list.parquet")
    with pytest.raises(XViTError, match="expected one column 'path': it has path, path"):
        read_inputs(tmp_path / "list.parquet")
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff.mp4"]).buffers())
    pq.write_table(pa.table({"path": text}), tmp_path / "list.parquet")
    with pytest.raises(XViTError, match="damaged, or not a Parquet file"):
        read_inputs(tmp_path / "list.parquet")


def test_a_list_of_one_endless_line(tmp_path):
    """Only the part is read that shows that it is no list."""
    with open(tmp_path / "list.txt", "wb") as file:
        file.write(b"a" * 70_000)
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(XViTError, match="not a text file"):
        read_inputs(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("list.txt", b"", "no inputs"),
        ("list.txt", b"\n \n", "no inputs"),
        ("list.txt", b"a\0b", "not a text file"),
        ("list.parquet", b"PAR1 and more", "damaged, or not a Parquet file"),
        ("list.txt", b"a.mp4 3\n", "line 1: 'a.mp4 3': expected a path alone: remove ' 3' from each line"),
        ("list.csv", b"none.mp4\na.mp4,left\n", "line 2: 'a.mp4,left': expected a path alone: remove ',left'"),
    ],
)
def test_wrong_files(tmp_path, name, data, message):
    touch(tmp_path, "a.mp4")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(XViTError, match=message):
        read_inputs(tmp_path / name)
    with pytest.raises(XViTError, match="no such file or folder"):
        read_inputs(tmp_path / "none")
