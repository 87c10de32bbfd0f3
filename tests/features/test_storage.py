"""Files of features, read back and by other readers; damaged and hostile ones."""

import contextlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy

from helpers.color_videos import CLIP
from xvit.config import to_dict
from xvit.features.storage import read, write
from xvit.utils.errors import XViTError

SUFFIXES = (".safetensors", ".npy", ".parquet")
VALUES = np.random.default_rng(0).normal(size=(9, 4, 5)).astype(np.float32)
ABOUT = {
    "format": 1,
    "level": "frames",
    "model": "m",
    "clip": to_dict(CLIP),
    "paths": [f"videos/[ü]/{index}.mp4" for index in range(9)],
    "labels": [*"aabbccdd", None],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """`VALUES` in each format. Not to be written to."""
    root = tmp_path_factory.mktemp("written")
    (root / "raw").write_bytes(VALUES.tobytes())
    for suffix in SUFFIXES:
        write(root / f"f{suffix}", root / "raw", VALUES.shape, ABOUT)
    return {suffix: root / f"f{suffix}" for suffix in SUFFIXES}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(suffix, written):
    found = read(written[suffix])
    assert (found.values.tobytes(), found.values.shape) == (VALUES.tobytes(), VALUES.shape)
    assert (found.paths, found.labels) == (tuple(ABOUT["paths"]), tuple(ABOUT["labels"]))
    assert (found.level, found.model, found.clip) == ("frames", "m", CLIP)


def test_other_readers_read_the_formats(written):
    assert np.array_equal(np.load(written[".npy"], allow_pickle=False), VALUES)
    assert np.array_equal(safetensors.numpy.load_file(written[".safetensors"])["features"], VALUES)
    columns = pyarrow.parquet.read_table(written[".parquet"]).to_pydict()
    assert (columns["path"], columns["label"]) == (ABOUT["paths"], ABOUT["labels"])
    assert np.array_equal(np.array(columns["features"], np.float32), VALUES.reshape(9, -1))


def test_row_groups_of_a_parquet(written, tmp_path, monkeypatch):
    monkeypatch.setattr("xvit.features.storage._CHUNK", 2 * 4 * 5 + 1)  # two rows
    write(tmp_path / "f.parquet", written[".npy"].with_name("raw"), VALUES.shape, ABOUT)
    assert pyarrow.parquet.ParquetFile(tmp_path / "f.parquet").num_row_groups == 5
    assert np.array_equal(read(tmp_path / "f.parquet").values, VALUES)
    assert np.array_equal(read(written[".parquet"]).values, VALUES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_refused_in_one_line(suffix, written, tmp_path):
    data, path = written[suffix].read_bytes(), tmp_path / f"f{suffix}"
    beside = {name: name.read_bytes() for name in written[suffix].parent.glob("*.json")}
    for name, text in beside.items():
        (tmp_path / name.name).write_bytes(text)
    rng = np.random.default_rng(0)
    cut = [data[: int(share * len(data))] for share in (0, 0.02, 0.2, 0.5, 0.9, 0.999)]
    for text in [*cut, b"{}" * 100, pickle.dumps([1]), b"PK\x03\x04" + data, rng.bytes(500)]:
        path.write_bytes(text)
        with pytest.raises(XViTError, match=f"f{suffix}: ") as error:
            read(path)
        assert "\n" not in str(error.value)
    for _ in range(60):  # other bytes in the head or the foot: refused, or read as something whole
        flipped = bytearray(data)
        for place in rng.integers(0, 300, 3):
            flipped[place if rng.random() < 0.5 else -place - 1] = rng.integers(256)
        path.write_bytes(flipped)
        with contextlib.suppress(XViTError):
            assert len(read(path).paths) == 9


def test_hostile_files_run_nothing(written, tmp_path):
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (marker,)

    about = written[".npy"].with_name("f.npy.json").read_text()
    (tmp_path / "f.npy.json").write_text(about)
    np.save(tmp_path / "f.npy", np.array([Hostile()] * 9, object), allow_pickle=True)
    with pytest.raises(XViTError, match="not features written by xvit"):
        read(tmp_path / "f.npy")
    with open(tmp_path / "f.npy", "wb") as file:
        np.savez(file, features=np.array([Hostile()], object))
    with pytest.raises(XViTError, match="not features written by xvit"):
        read(tmp_path / "f.npy")
    assert not marker.exists()
    np.load(tmp_path / "f.npy", allow_pickle=True)["features"]
    assert marker.exists()  # it would have run
    (tmp_path / "f.npy").write_bytes(written[".npy"].read_bytes())
    for wrong in ("[" * 100_000, "[]", "{}", '{"format": "1"}', about[:-20], "null"):
        (tmp_path / "f.npy.json").write_text(wrong)
        with pytest.raises(XViTError, match="not features written by xvit"):
            read(tmp_path / "f.npy")


def test_files_that_do_not_add_up(written, tmp_path):
    (tmp_path / "f.npy").write_bytes(written[".npy"].read_bytes())
    about = json.loads(written[".npy"].with_name("f.npy.json").read_text())
    for change, said in (
        ({"format": 2}, "of format 2, this version reads up to 1: pip install -U xvit"),
        ({"level": "clip"}, "damaged: values: float32 of shape"),
        ({"level": "videos"}, "level='videos': expected one of"),
        ({"level": ["clip"]}, "expected one of"),
        ({"paths": about["paths"][1:]}, "9 rows, 8 paths, 9 labels"),
        ({"paths": [1] * 9}, "not all texts"),
        ({"labels": [1] * 9}, "not all texts"),
        ({"labels": None}, "not all texts"),
        ({"clip": {"frames": 3}}, 'unknown key "frames"'),
        ({"clip": None}, "expected a mapping"),
    ):
        (tmp_path / "f.npy.json").write_text(json.dumps(about | change))
        with pytest.raises(XViTError, match=r"f\.npy: ") as error:
            read(tmp_path / "f.npy")
        assert said in str(error.value)
    (tmp_path / "f.npy.json").unlink()
    with pytest.raises(XViTError, match=r"f\.npy\.json: no such file"):
        read(tmp_path / "f.npy")
