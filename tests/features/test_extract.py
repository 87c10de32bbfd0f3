"""Extracted features against the model run video by video; stopped, killed and refused extractions."""

import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata, write_video
from helpers.features import features_one_by_one
from helpers.files import limited_file_size, locked_by_another_process
from helpers.warm_processes import WarmProcess
from xvit.data import record
from xvit.data.dataset import VideoDataset
from xvit.features import extract_features, read_features
from xvit.features.partial import partial_folder
from xvit.inference.predictor import Predictor
from xvit.models.profiling import model_hash
from xvit.utils.errors import WriteError, XViTError
from xvit.utils.version import library_versions

SUFFIXES = (".safetensors", ".npy", ".parquet")


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    """Three videos of each colour, in a folder of that name. Read-only."""
    root = tmp_path_factory.mktemp("colours")
    return [
        str(write_video(root / name / f"{index}.mp4", color=2 - label, seed=10 * label + index))
        for label, name in enumerate(CLASSES)
        for index in range(3)
    ]


@pytest.fixture(scope="module")
def labels(paths) -> list[str]:
    return [Path(path).parent.name for path in paths]


@pytest.fixture(scope="module")
def model():
    return with_metadata(make_model(), list(CLASSES))


@pytest.fixture
def bad(tmp_path) -> str:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    return str(path)


class StopError(Exception):
    pass


def stop_at(number):
    """A progress callback that ends the extraction once this many videos are done."""

    def on_progress(done, total):
        if done >= number:
            raise StopError

    return on_progress


@pytest.mark.parametrize(("level", "num_workers"), [("clip", 0), ("frames", 0), ("tokens", 0), ("tokens", 1)])
def test_features_equal_those_of_each_video_alone(level, num_workers, model, paths, labels, tmp_path):
    progress = []
    output = tmp_path / "new" / "f.npy"
    result = extract_features(
        model, paths, output, level=level, labels=labels, batch_size=4, num_workers=num_workers,
        on_progress=lambda done, total: progress.append((done, total)),
    )  # fmt: skip
    expected = features_one_by_one(model, paths, level)
    D, T, tokens = 16, 4, 1 + 4
    assert expected.shape == {"clip": (9, D), "frames": (9, T, D), "tokens": (9, T, tokens, D)}[level]
    features = read_features(output)
    np.testing.assert_allclose(features.values, expected, atol=1e-5)
    assert (features.paths, features.labels, features.level) == (tuple(paths), tuple(labels), level)
    assert (features.clip_spec, features.model_hash) == (CLIP, model_hash(model))
    assert (result.output, result.shape, result.failures) == (output, expected.shape, ())
    assert progress == [(0, 9), (4, 9), (8, 9), (9, 9)]
    assert sorted(path.name for path in output.parent.iterdir()) == ["f.npy", "f.npy.json"]


def test_the_classifier_on_features_gives_the_predictions(model, paths, tmp_path):
    extract_features(model, paths, tmp_path / "f.safetensors")
    values = read_features(tmp_path / "f.safetensors").values
    with torch.no_grad():
        scores = model.classifier(torch.from_numpy(values))["label"].softmax(-1)
    predictor = Predictor(model)
    for path, row in zip(paths, scores, strict=True):
        assert predictor(path).scores == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [0, 2, 4, 8, 9])
def test_a_resumed_extraction_writes_the_same_bytes(suffix, number, model, paths, labels, bad, tmp_path):
    paths, labels = [*paths[:3], bad, *paths[3:]], [*labels[:3], "none", *labels[3:]]
    full, stopped = tmp_path / f"full{suffix}", tmp_path / f"stopped{suffix}"
    options = {"labels": labels, "batch_size": 2}
    extract_features(model, paths, full, **options)
    with pytest.raises(StopError):
        extract_features(model, paths, stopped, on_progress=stop_at(number), **options)
    assert not stopped.exists()
    for name, data in (("values", b"part of a row"), ("journal.jsonl", b'{"done": 1')):
        with open(partial_folder(stopped) / name, "ab") as file:
            file.write(data)
    progress = []
    result = extract_features(model, paths, stopped, on_progress=lambda done, _: progress.append(done), **options)
    assert progress == list(range(number + number % 2, 11, 2))
    assert stopped.read_bytes() == full.read_bytes()
    assert [failure.path for failure in result.failures] == [bad]
    assert read_features(stopped).paths == tuple(path for path in paths if path != bad)
    assert not partial_folder(stopped).exists()


def test_a_stop_between_the_sidecar_and_the_array(model, paths, tmp_path, monkeypatch):
    def stop(self, target):
        if target.suffix == ".npy":
            raise StopError
        return replaced(self, target)

    replaced = Path.replace
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(StopError):
            extract_features(model, paths, tmp_path / "f.npy")
    assert {path.name for path in tmp_path.iterdir()} == {"f.npy.json", ".f.npy.partial"}
    progress = []
    extract_features(model, paths, tmp_path / "f.npy", on_progress=lambda *now: progress.append(now))
    assert progress == [(9, 9)]
    expected = features_one_by_one(model, paths, "clip")
    np.testing.assert_allclose(read_features(tmp_path / "f.npy").values, expected, atol=1e-5)


def test_sigkill_between_rows_and_journal_then_the_same_command(run, model, paths, tmp_path):
    # The record of the run syncs its file and its folder, each batch its values, then its journal line: the seventh
    # call comes after the rows of the third batch.
    kill_at_the_seventh_sync = (
        "import os, signal, sys; from xvit.cli.main import main\n"
        "fsync, calls = os.fsync, []\n"
        "def sync(file):\n"
        "    calls.append(file)\n"
        "    if len(calls) == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    fsync(file)\n"
        "os.fsync = sync; main(sys.argv[1:])"
    )
    model.save_pretrained(tmp_path / "model")
    words = ["features", Path(paths[0]).parents[1], "--checkpoint", tmp_path / "model", "--level", "tokens"]
    words = [str(word) for word in [*words, "--batch-size", 2, "--num-workers", 0, "--device", "cpu", "--output"]]
    output, full = tmp_path / "f.safetensors", tmp_path / "full.safetensors"
    assert WarmProcess("-c", kill_at_the_seventh_sync, *words, output).wait() == (-signal.SIGKILL, "", "")
    row_bytes = 4 * 4 * 5 * 16
    assert (partial_folder(output) / "values").stat().st_size == 6 * row_bytes
    assert len((partial_folder(output) / "journal.jsonl").read_text().splitlines()) == 2
    assert run(*words, output)[::2] == (0, "")
    assert run(*words, full)[::2] == (0, "")
    assert output.read_bytes() == full.read_bytes()
    expected = features_one_by_one(model, sorted(paths), "tokens")
    np.testing.assert_allclose(read_features(output).values, expected, atol=1e-5)


def test_an_unfinished_extraction_with_other_settings_is_refused(model, paths, labels, tmp_path):
    output = tmp_path / "f.npy"
    options = {"labels": labels, "batch_size": 2}
    with pytest.raises(StopError):
        extract_features(model, paths, output, on_progress=stop_at(4), **options)
    before = {path.name: path.read_bytes() for path in partial_folder(output).iterdir()}
    torch.manual_seed(1)
    other = with_metadata(make_model(), list(CLASSES))
    with torch.no_grad():
        other.backbone.blocks[0].mlp.fc1.bias[0] += 1e-3
    larger = with_metadata(make_model(), list(CLASSES))
    larger.clip_spec = replace(CLIP, image_size=32)
    for message, arguments in {
        "model_hash was": ((other, paths), options),
        "clip_spec.image_size was 16 and is now 32": ((larger, paths), options),
        'level was "clip" and is now "frames"': ((model, paths), options | {"level": "frames"}),
        r"videos changed: 1 removed \(.*/red/2\.mp4\)": ((model, paths[:8]), options | {"labels": labels[:8]}),
        r"videos changed: 1 added \(.*/blue/0\.mp4 \[2\]\)": (
            (model, [*paths, paths[0]]),
            {"labels": [*labels, "blue"]},
        ),
        r"videos changed: .*0\.mp4: blue, now red": ((model, paths), options | {"labels": ["red", *labels[1:]]}),
        "videos changed: in another order": ((model, paths[::-1]), options | {"labels": labels[::-1]}),
        "batch_size was 2 and is now 3": ((model, paths), options | {"batch_size": 3}),
    }.items():
        with pytest.raises(XViTError, match=rf"\.f\.npy\.partial: .*{message}.*remove that folder"):
            extract_features(*arguments[0], output, **arguments[1])
    assert before == {path.name: path.read_bytes() for path in partial_folder(output).iterdir()}
    (partial_folder(output) / "values").write_bytes(b"less")
    with pytest.raises(XViTError, match="damaged, values are missing; remove it"):
        extract_features(model, paths, output, **options)
    (partial_folder(output) / "journal.jsonl").write_text("not a line of a journal\n")
    with pytest.raises(XViTError, match="damaged or of another version of xvit; remove it"):
        extract_features(model, paths, output, **options)
    extract_features(other, paths[:3], output, resume=False)
    np.testing.assert_allclose(read_features(output).values, features_one_by_one(other, paths[:3], "clip"), atol=1e-5)


def test_replaced_videos_and_other_libraries_are_refused(model, paths, tmp_path, monkeypatch):
    """The rows of the videos that are done would be those of the files that were there before."""
    copies = [shutil.copy(path, tmp_path / f"{index}.mp4") for index, path in enumerate(paths)]
    output = tmp_path / "f.npy"
    with pytest.raises(StopError):
        extract_features(model, copies, output, batch_size=2, on_progress=stop_at(4))
    before = {path.name: path.read_bytes() for path in partial_folder(output).iterdir()}
    shutil.copy(paths[5], copies[0])
    with pytest.raises(XViTError, match=r"whose videos changed: 1 of another size \(.*/0\.mp4\); undo this change"):
        extract_features(model, copies, output, batch_size=2)
    shutil.copy(paths[0], copies[0])  # with another time of modification
    versions = library_versions()
    with monkeypatch.context() as patched:
        patched.setattr(record, "library_versions", lambda: versions | {"torch": "9"})
        with pytest.raises(XViTError, match=r'whose versions\.torch was "2\..*" and is now "9"'):
            extract_features(model, copies, output, batch_size=2)
    assert before == {path.name: path.read_bytes() for path in partial_folder(output).iterdir()}
    extract_features(model, copies, output, batch_size=2)
    np.testing.assert_allclose(read_features(output).values, features_one_by_one(model, paths, "clip"), atol=1e-5)


def test_warnings_about_videos_survive_a_stop(model, paths, tmp_path, monkeypatch):
    item = VideoDataset.__getitem__

    def warn(self, index):
        found = item(self, index)
        return replace(found, warnings=("odd", "old")) if self.samples[index].path in (paths[1], paths[6]) else found

    monkeypatch.setattr(VideoDataset, "__getitem__", warn)
    with pytest.raises(StopError):
        extract_features(model, paths, tmp_path / "f.npy", batch_size=2, on_progress=stop_at(4))
    result = extract_features(model, paths, tmp_path / "f.npy", batch_size=2)
    assert result.warnings == ((paths[1], ("odd", "old")), (paths[6], ("odd", "old")))


def test_an_unfinished_extraction_without_a_batch_is_overwritten(model, paths, tmp_path):
    with pytest.raises(StopError):
        extract_features(model, paths, tmp_path / "f.npy", on_progress=stop_at(0))
    extract_features(model, paths[:2], tmp_path / "f.npy", level="frames", batch_size=1)
    assert read_features(tmp_path / "f.npy").values.shape == (2, 4, 16)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_processes_do_not_share_an_extraction(model, paths, tmp_path):
    with (
        locked_by_another_process(tmp_path / "f.npy", "xvit features") as other,
        pytest.raises(XViTError, match=rf"f\.npy: in use by xvit features \(process {other.pid} on host "),
    ):
        extract_features(model, paths, tmp_path / "f.npy")
    extract_features(model, paths, tmp_path / "f.npy")


@pytest.mark.parametrize("full", ["at the start", "in the middle", "at the end"])
def test_a_full_disk_costs_no_finished_rows(full, model, paths, tmp_path):
    options = {"level": "tokens", "batch_size": 1}
    extract_features(model, paths, tmp_path / "whole.npy", **options)
    output, size = tmp_path / "f.npy", (tmp_path / "whole.npy").stat().st_size
    limit = {"at the start": 10, "in the middle": size // 2, "at the end": size - 1}[full]
    with limited_file_size(limit), pytest.raises(WriteError, match=r"f\.npy.*: cannot be written: File too large$"):
        extract_features(model, paths, output, **options)
    done = []
    extract_features(model, paths, output, **options, on_progress=lambda number, total: done.append(number))
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    rows = {"at the start": [0], "in the middle": range(1, len(paths)), "at the end": [len(paths)]}
    assert done[0] in rows[full]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unreadable_videos_have_no_row(suffix, model, paths, bad, tmp_path):
    missing = str(tmp_path / "none.mp4")
    mixed = [bad, missing, paths[0], paths[1], paths[2], bad]
    result = extract_features(model, mixed, tmp_path / f"f{suffix}", batch_size=2)
    assert [failure.path for failure in result.failures] == [bad, missing, bad]
    features = read_features(tmp_path / f"f{suffix}")
    assert (features.paths, features.labels) == (tuple(paths[:3]), (None, None, None))
    np.testing.assert_allclose(features.values, features_one_by_one(model, paths[:3], "clip"), atol=1e-5)
    with pytest.raises(XViTError, match=r"none of 2 videos could be read; the first: .*notes\.mp4"):
        extract_features(model, [bad, bad], tmp_path / f"g{suffix}")
    assert not [path for path in tmp_path.iterdir() if "g." in path.name]


def test_invalid_outputs_and_labels(model, paths, tmp_path, monkeypatch):
    (tmp_path / "f.npy").write_text("years of work")
    (tmp_path / "g.npy.json").write_text("years of work")
    for name, message in {
        "f.npy": "f.npy: exists",
        "g.npy": "g.npy.json: exists",
        "f.npz": r"expected a name that ends in one of .*\. Did you mean",
        "f": "expected a name that ends in",
    }.items():
        with pytest.raises(XViTError, match=message):
            extract_features(model, paths, tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("f.npy", "g.npy.json"), "years of work"
    )
    with pytest.raises(XViTError, match="1 labels for 9 videos"):
        extract_features(model, paths, tmp_path / "h.npy", labels=["red"])
    with pytest.raises(XViTError, match=r"not valid Unicode, which \.parquet requires: use \.npy"):
        extract_features(model, [*paths, "caf\udce9.mp4"], tmp_path / "h.parquet")
    monkeypatch.setattr("xvit.features.storage.MAX_HEADER_BYTES", 500)
    with pytest.raises(XViTError, match="too many videos for this format's header"):
        extract_features(model, paths, tmp_path / "h.safetensors")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(XViTError, match=r"pyarrow is not installed: pip install 'xvit\[features\]'"):
        extract_features(model, paths, tmp_path / "h.parquet")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_file_names_that_are_not_valid_unicode(suffix, model, paths, tmp_path):
    odd = str(tmp_path / "caf\udce9.mp4")
    Path(odd).write_bytes(Path(paths[0]).read_bytes())
    extract_features(model, [odd], tmp_path / f"f{suffix}")
    assert read_features(tmp_path / f"f{suffix}").paths == (odd,)
