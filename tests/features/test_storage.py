"""Feature files: read back, read by other libraries, damaged, hostile."""

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
from xvit.features.storage import read_features, write_features
from xvit.utils.errors import XViTError

SUFFIXES = (".safetensors", ".npy", ".parquet")
VALUES = np.random.default_rng(0).normal(size=(9, 4, 5)).astype(np.float32)
METADATA = {
    "format": 1,
    "level": "frames",
    "model_hash": "m",
    "clip_spec": to_dict(CLIP),
    "paths": [f"videos/[ü]/{index}.mp4" for index in range(9)],
    "labels": [*"aabbccdd", None],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """`VALUES` in each format. Read-only."""
    root = tmp_path_factory.mktemp("written")
    (root / "raw").write_bytes(VALUES.tobytes())
    for suffix in SUFFIXES:
        write_features(root / f"f{suffix}", root / "raw", VALUES.shape, METADATA)
    return {suffix: root / f"f{suffix}" for suffix in SUFFIXES}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_features_are_read_back(suffix, written):
    features = read_features(written[suffix])
    assert (features.values.tobytes(), features.values.shape) == (VALUES.tobytes(), VALUES.shape)
    assert (features.paths, features.labels) == (tuple(METADATA["paths"]), tuple(METADATA["labels"]))
    assert (features.level, features.model_hash, features.clip_spec) == ("frames", "m", CLIP)


def test_other_readers_read_the_formats(written):
    assert np.array_equal(np.load(written[".npy"], allow_pickle=False), VALUES)
    assert np.array_equal(safetensors.numpy.load_file(written[".safetensors"])["features"], VALUES)
    columns = pyarrow.parquet.read_table(written[".parquet"]).to_pydict()
    assert (columns["path"], columns["label"]) == (METADATA["paths"], METADATA["labels"])
    assert np.array_equal(np.array(columns["features"], np.float32), VALUES.reshape(9, -1))


def test_row_groups_of_a_parquet(written, tmp_path, monkeypatch):
    monkeypatch.setattr("xvit.features.storage.ROW_GROUP_VALUES", 2 * 4 * 5 + 1)  # two rows
    write_features(tmp_path / "f.parquet", written[".npy"].with_name("raw"), VALUES.shape, METADATA)
    assert pyarrow.parquet.ParquetFile(tmp_path / "f.parquet").num_row_groups == 5
    assert np.array_equal(read_features(tmp_path / "f.parquet").values, VALUES)
    assert np.array_equal(read_features(written[".parquet"]).values, VALUES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_error_of_a_damaged_file_is_one_line(suffix, written, tmp_path):
    data, path = written[suffix].read_bytes(), tmp_path / f"f{suffix}"
    sidecars = {name: name.read_bytes() for name in written[suffix].parent.glob("*.json")}
    for name, text in sidecars.items():
        (tmp_path / name.name).write_bytes(text)
    rng = np.random.default_rng(0)
    cut = [data[: int(share * len(data))] for share in (0, 0.02, 0.2, 0.5, 0.9, 0.999)]
    for text in [*cut, b"{}" * 100, pickle.dumps([1]), b"PK\x03\x04" + data, rng.bytes(500)]:
        path.write_bytes(text)
        with pytest.raises(XViTError, match=f"f{suffix}: ") as error:
            read_features(path)
        assert "\n" not in str(error.value)
    for _ in range(60):  # changed bytes in the head or the foot: refused, or read with the same number of videos
        flipped = bytearray(data)
        for place in rng.integers(0, 300, 3):
            flipped[place if rng.random() < 0.5 else -place - 1] = rng.integers(256)
        path.write_bytes(flipped)
        with contextlib.suppress(XViTError):
            assert len(read_features(path).paths) == 9


def test_no_code_in_a_file_is_executed(written, tmp_path):
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (marker,)

    metadata = written[".npy"].with_name("f.npy.json").read_text()
    (tmp_path / "f.npy.json").write_text(metadata)
    np.save(tmp_path / "f.npy", np.array([Hostile()] * 9, object), allow_pickle=True)
    with pytest.raises(XViTError, match="not a feature file of xvit"):
        read_features(tmp_path / "f.npy")
    with open(tmp_path / "f.npy", "wb") as file:
        np.savez(file, features=np.array([Hostile()], object))
    with pytest.raises(XViTError, match="not a feature file of xvit"):
        read_features(tmp_path / "f.npy")
    assert not marker.exists()
    np.load(tmp_path / "f.npy", allow_pickle=True)["features"]
    assert marker.exists()  # this reader executes the code
    (tmp_path / "f.npy").write_bytes(written[".npy"].read_bytes())
    for wrong in ("[" * 100_000, "[]", "{}", '{"format": "1"}', metadata[:-20], "null"):
        (tmp_path / "f.npy.json").write_text(wrong)
        with pytest.raises(XViTError, match="not a feature file of xvit"):
            read_features(tmp_path / "f.npy")


def test_files_with_invalid_metadata(written, tmp_path):
    (tmp_path / "f.npy").write_bytes(written[".npy"].read_bytes())
    metadata = json.loads(written[".npy"].with_name("f.npy.json").read_text())
    for change, message in (
        ({"format": 2}, "format 2, but this version reads up to 1: pip install -U xvit"),
        ({"level": "clip"}, "damaged: values: float32 of shape"),
        ({"level": "videos"}, "level='videos': expected one of"),
        ({"level": ["clip"]}, "expected one of"),
        ({"paths": metadata["paths"][1:]}, "9 rows, 8 paths, 9 labels"),
        ({"paths": [1] * 9}, "not all strings"),
        ({"labels": [1] * 9}, "not all strings"),
        ({"labels": None}, "not all strings"),
        ({"clip_spec": {"frames": 3}}, 'unknown key "frames"'),
        ({"clip_spec": None}, "expected a mapping"),
    ):
        (tmp_path / "f.npy.json").write_text(json.dumps(metadata | change))
        with pytest.raises(XViTError, match=r"f\.npy: ") as error:
            read_features(tmp_path / "f.npy")
        assert message in str(error.value)
    (tmp_path / "f.npy.json").unlink()
    with pytest.raises(XViTError, match=r"f\.npy\.json: no such file"):
        read_features(tmp_path / "f.npy")
