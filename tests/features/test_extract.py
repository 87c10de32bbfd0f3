"""Features against the model run video by video; extractions that are stopped, killed, refused; the commands."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.color_videos import CLASSES, CLIP, MODEL, described, make_model, write_video
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.transforms import normalize
from xvit.features.extract import extract
from xvit.features.storage import read
from xvit.inference.predictor import Predictor
from xvit.models.profiling import model_hash
from xvit.utils.errors import XViTError

SUFFIXES = (".safetensors", ".npy", ".parquet")
BACKBONE = ["--backbone", MODEL.backbone, "--num-frames", "4", "--backbone-kwargs", json.dumps(MODEL.backbone_kwargs)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    """Three videos of each colour, in a folder of that name. Not to be written to."""
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
    return described(make_model(), list(CLASSES))


@pytest.fixture
def bad(tmp_path) -> str:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    return str(path)


def one_by_one(model, paths, level) -> np.ndarray:
    """The features of each video, alone in its batch."""
    rows = []
    for path in paths:
        item = VideoDataset(samples=[Sample(path=path, label=None, id=path)], clip_spec=model.clip_spec)[0]
        with torch.no_grad():
            rows.append(
                getattr(model.forward_features(normalize(item.pixels, model.clip_spec, torch.device("cpu"))), level)
            )
    return torch.cat(rows).numpy()


def folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


class StopError(Exception):
    pass


def stop_at(number):
    """For on_progress: ends the extraction once so many videos are done."""

    def told(done, total):
        if done >= number:
            raise StopError

    return told


@pytest.mark.parametrize(("level", "num_workers"), [("clip", 0), ("frames", 0), ("tokens", 0), ("tokens", 1)])
def test_features_are_those_of_the_model_video_by_video(level, num_workers, model, paths, labels, tmp_path):
    told = []
    output = tmp_path / "new" / "f.npy"
    result = extract(
        model, paths, output, level=level, labels=labels, batch_size=4, num_workers=num_workers,
        on_progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    expected = one_by_one(model, paths, level)
    D, T, tokens = 16, 4, 1 + 4
    assert expected.shape == {"clip": (9, D), "frames": (9, T, D), "tokens": (9, T, tokens, D)}[level]
    found = read(output)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert (found.paths, found.labels, found.level) == (tuple(paths), tuple(labels), level)
    assert (found.clip, found.model) == (CLIP, model_hash(model))
    assert (result.output, result.shape, result.failures) == (output, expected.shape, ())
    assert told == [(0, 9), (4, 9), (8, 9), (9, 9)]
    assert sorted(path.name for path in output.parent.iterdir()) == ["f.npy", "f.npy.json"]


def test_the_classifier_on_features_predicts(model, paths, tmp_path):
    extract(model, paths, tmp_path / "f.safetensors")
    with torch.no_grad():
        scores = model.classifier(torch.from_numpy(read(tmp_path / "f.safetensors").values)).softmax(-1)
    predictor = Predictor(model)
    for path, row in zip(paths, scores, strict=True):
        assert predictor(path).scores == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [0, 2, 4, 8, 9])
def test_a_stop_leaves_no_trace(suffix, number, model, paths, labels, bad, tmp_path):
    paths, labels = [*paths[:3], bad, *paths[3:]], [*labels[:3], "none", *labels[3:]]
    whole, stopped = tmp_path / f"whole{suffix}", tmp_path / f"stopped{suffix}"
    options = {"labels": labels, "batch_size": 2}
    extract(model, paths, whole, **options)
    with pytest.raises(StopError):
        extract(model, paths, stopped, on_progress=stop_at(number), **options)
    assert not stopped.exists()
    with open(folder(stopped) / "values", "ab") as values, open(folder(stopped) / "journal.jsonl", "ab") as journal:
        values.write(b"half of a row")
        journal.write(b'{"done": 1')
    told = []
    result = extract(model, paths, stopped, on_progress=lambda done, _: told.append(done), **options)
    assert told == list(range(number + number % 2, 11, 2))
    assert stopped.read_bytes() == whole.read_bytes()
    assert [failure.path for failure in result.failures] == [bad]
    assert read(stopped).paths == tuple(path for path in paths if path != bad)
    assert not folder(stopped).exists()


def test_a_stop_between_the_sidecar_and_its_array(model, paths, tmp_path, monkeypatch):
    def stop(self, target):
        if target.suffix == ".npy":
            raise StopError
        return replaced(self, target)

    replaced = Path.replace
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(StopError):
            extract(model, paths, tmp_path / "f.npy")
    assert {path.name for path in tmp_path.iterdir()} == {"f.npy.json", ".f.npy.partial"}
    told = []
    extract(model, paths, tmp_path / "f.npy", on_progress=lambda *now: told.append(now))
    assert told == [(9, 9)]
    np.testing.assert_allclose(read(tmp_path / "f.npy").values, one_by_one(model, paths, "clip"), atol=1e-5)


def test_sigkill_between_rows_and_journal_then_the_same_command(run, model, paths, tmp_path):
    kill = (
        "import os, signal, sys, xvit.features.extract as extract; from xvit.cli import main\n"
        "add = extract._Partial.add\n"
        "def killed(self, rows, **batch):\n"
        "    if self.done == 4: self._values.write(rows); self._values.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(self, rows, **batch)\n"
        "extract._Partial.add = killed; main(sys.argv[1:])"
    )
    model.save_pretrained(tmp_path / "model")
    words = ["features", Path(paths[0]).parents[1], "--checkpoint", tmp_path / "model", "--level", "tokens"]
    words = [str(word) for word in [*words, "--batch-size", 2, "--num-workers", 0, "--device", "cpu", "--output"]]
    output, whole = tmp_path / "f.safetensors", tmp_path / "whole.safetensors"
    done = subprocess.run([sys.executable, "-c", kill, *words, str(output)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")
    row = 4 * 4 * 5 * 16
    assert (folder(output) / "values").stat().st_size == 6 * row
    assert len((folder(output) / "journal.jsonl").read_text().splitlines()) == 2
    assert run(*words, output)[::2] == (0, "")
    assert run(*words, whole)[::2] == (0, "")
    assert output.read_bytes() == whole.read_bytes()
    np.testing.assert_allclose(read(output).values, one_by_one(model, sorted(paths), "tokens"), atol=1e-5)


def test_what_is_left_of_another_extraction_is_refused(model, paths, labels, tmp_path):
    output = tmp_path / "f.npy"
    options = {"labels": labels, "batch_size": 2}
    with pytest.raises(StopError):
        extract(model, paths, output, on_progress=stop_at(4), **options)
    before = {path.name: path.read_bytes() for path in folder(output).iterdir()}
    torch.manual_seed(1)
    other = described(make_model(), list(CLASSES))
    with torch.no_grad():
        other.backbone.blocks[0].mlp.fc1.bias[0] += 1e-3
    larger = described(make_model(), list(CLASSES))
    larger.clip_spec = replace(CLIP, image_size=32)
    for said, arguments in {
        "model was": ((other, paths), options),
        "clip was": ((larger, paths), options),
        "level was clip, now frames": ((model, paths), options | {"level": "frames"}),
        "videos was 9, .* now 8": ((model, paths[:8]), options | {"labels": labels[:8]}),
        "videos was": ((model, paths[::-1]), options),
        "batch_size was 2, now 3": ((model, paths), options | {"batch_size": 3}),
    }.items():
        with pytest.raises(XViTError, match=rf"\.f\.npy\.partial: .*{said}.*remove that folder"):
            extract(*arguments[0], output, **arguments[1])
    assert before == {path.name: path.read_bytes() for path in folder(output).iterdir()}
    (folder(output) / "values").write_bytes(b"less")
    with pytest.raises(XViTError, match="damaged, values are missing; remove it"):
        extract(model, paths, output, **options)
    (folder(output) / "journal.jsonl").write_text("not a line of ours\n")
    with pytest.raises(XViTError, match="damaged; remove it"):
        extract(model, paths, output, **options)
    extract(other, paths[:3], output, resume=False)
    np.testing.assert_allclose(read(output).values, one_by_one(other, paths[:3], "clip"), atol=1e-5)


def test_a_start_without_one_batch_binds_nobody(model, paths, tmp_path):
    with pytest.raises(StopError):
        extract(model, paths, tmp_path / "f.npy", on_progress=stop_at(0))
    extract(model, paths[:2], tmp_path / "f.npy", level="frames", batch_size=1)
    assert read(tmp_path / "f.npy").values.shape == (2, 4, 16)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_two_processes_do_not_share_an_extraction(model, paths, tmp_path):
    folder(tmp_path / "f.npy").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    words = [sys.executable, "-c", hold, str(folder(tmp_path / "f.npy") / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(XViTError, match="another process is at this extraction"):
            extract(model, paths, tmp_path / "f.npy")
        other.communicate(b"\n")
    extract(model, paths, tmp_path / "f.npy")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_videos_have_no_row(suffix, model, paths, bad, tmp_path):
    missing = str(tmp_path / "none.mp4")
    mixed = [bad, missing, paths[0], paths[1], paths[2], bad]
    result = extract(model, mixed, tmp_path / f"f{suffix}", batch_size=2)
    assert [failure.path for failure in result.failures] == [bad, missing, bad]
    found = read(tmp_path / f"f{suffix}")
    assert (found.paths, found.labels) == (tuple(paths[:3]), (None, None, None))
    np.testing.assert_allclose(found.values, one_by_one(model, paths[:3], "clip"), atol=1e-5)
    with pytest.raises(XViTError, match=r"none of 2 videos could be read; the first: .*notes\.mp4"):
        extract(model, [bad, bad], tmp_path / f"g{suffix}")
    assert not [path for path in tmp_path.iterdir() if "g." in path.name]


def test_outputs_that_are_refused(model, paths, tmp_path, monkeypatch):
    (tmp_path / "f.npy").write_text("years of work")
    (tmp_path / "g.npy.json").write_text("years of work")
    for name, said in {
        "f.npy": "f.npy: exists",
        "g.npy": "g.npy.json: exists",
        "f.npz": r"expected a name that ends in one of .*\. Did you mean",
        "f": "expected a name that ends in",
    }.items():
        with pytest.raises(XViTError, match=said):
            extract(model, paths, tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("f.npy", "g.npy.json"), "years of work"
    )
    with pytest.raises(XViTError, match="1 labels for 9 videos"):
        extract(model, paths, tmp_path / "h.npy", labels=["red"])
    with pytest.raises(XViTError, match=r"take \.npy"):
        extract(model, [*paths, "caf\udce9.mp4"], tmp_path / "h.parquet")
    monkeypatch.setattr("xvit.features.storage._HEADER_LIMIT", 500)
    with pytest.raises(XViTError, match="too many videos for this format's header"):
        extract(model, paths, tmp_path / "h.safetensors")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(XViTError, match=r"pyarrow is not installed: pip install 'xvit\[features\]'"):
        extract(model, paths, tmp_path / "h.parquet")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".npy"])
def test_file_names_that_are_no_text(suffix, model, paths, tmp_path):
    odd = str(tmp_path / "caf\udce9.mp4")
    Path(odd).write_bytes(Path(paths[0]).read_bytes())
    extract(model, [odd], tmp_path / f"f{suffix}")
    assert read(tmp_path / f"f{suffix}").paths == (odd,)


def test_the_fingerprint_is_of_weights_and_settings(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    assert model_hash(type(model).from_pretrained(tmp_path / "model")) == model_hash(model)
    assert model_hash(make_model(window=2)) != model_hash(make_model(window=1))


def test_commands_from_videos_to_accuracy(run, refused, paths, bad, tmp_path):
    root, output = Path(paths[0]).parents[1], tmp_path / "train.parquet"
    words = ["features", root, "--output", output, "--num-workers", 0, "--device", "cpu"]
    code, out, err = run(*words, *BACKBONE)
    assert (code, err) == (0, "")
    assert "random: for trained ones, give --pretrained true" in out
    assert "clip, float32 (9, 16)" in out
    found = read(output)
    assert set(zip(found.paths, found.labels, strict=True)) == {(path, Path(path).parent.name) for path in paths}
    # From an image model alone: the mean over the frames, each seen alone.
    image = make_model(0, attention="spatial", temporal_head="mean")
    np.testing.assert_allclose(found.values, one_by_one(image, found.paths, "frames").mean(axis=1), atol=1e-5)
    assert f"{output}: exists" in refused(*words, *BACKBONE)

    words[3] = test = tmp_path / "test.npy"
    code, out, err = run("features", bad, *words[1:], *BACKBONE, "--json")
    assert code == 1
    assert "1 of 10 videos could not be read" in err
    told = json.loads(out)
    assert (told["output"], told["shape"], told["level"]) == (str(test), [9, 16], "clip")
    assert [failure["path"] for failure in told["failed"]] == [bad]
    code, out, err = run("probe", output, test, "--k", 1, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["knn"], told["classes"]) == ({"top1": 1.0, "top5": None}, 3)  # each is its own nearest
    code, out, err = run("probe", output, test, "--k", 1)
    assert (code, err) == (0, "")
    assert "1 nearest neighbours" in out
    assert "100.00 %" in out
    assert "3 classes, 9 training videos, 9 test videos" in out


def test_commands_explain_mistakes_in_one_line(refused, paths, checkpoint, tmp_path):
    words = ["features", paths[0], "--output", tmp_path / "f.npy"]
    assert "--checkpoint or --backbone: missing" in refused(*words)
    assert "--attention: not with --checkpoint" in refused(*words, "--checkpoint", checkpoint, "--attention", "joint")
    assert "--backbone: not with --checkpoint" in refused(*words, "--checkpoint", checkpoint, *BACKBONE)
    assert 'Did you mean "frames"?' in refused(*words, "--checkpoint", checkpoint, "--level", "frame")
    assert "batch_size=0" in refused(*words, "--checkpoint", checkpoint, "--batch-size", 0)
    assert "ends in one of" in refused(*words[:3], "f.txt", "--checkpoint", checkpoint)
    assert "no such checkpoint directory" in refused(*words, "--checkpoint", tmp_path / "none")
    assert "none of 1 videos" in refused("features", "none.mp4", *words[2:], "--checkpoint", checkpoint)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_go_on(run, checkpoint, paths, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("xvit.features.extract.make_loader", stop)
    code, out, err = run("features", paths[0], "--output", tmp_path / "f.npy", "--checkpoint", checkpoint)
    assert (code, out, err) == (130, "", "xvit: stopped. Run the same command to go on where it stopped.\n")
