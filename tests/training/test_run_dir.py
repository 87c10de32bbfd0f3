"""The run folder: when it is refused, and how damaged files in it are handled."""

import json

import pytest

from helpers.color_videos import make_config
from xvit.training import fit
from xvit.utils.errors import XViTError


def test_a_folder_in_use_is_refused(videos, tmp_path):
    output = tmp_path / "run"
    fit(make_config(videos, epochs=1), output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(XViTError, match=r"contains a training run; .*--resume.*--output"):
        fit(make_config(videos, epochs=1), output)
    with pytest.raises(XViTError, match=r"train\.epochs was 1 and is now 2"):
        fit(make_config(videos), output, resume=True)
    deeper = {"backbone_kwargs": {**make_config(videos).model.backbone_kwargs, "depth": 3}}
    with pytest.raises(XViTError, match=r"model\.backbone_kwargs\.depth was 2 and is now 3"):
        fit(make_config(videos, epochs=1, model=deeper), output, resume=True)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(XViTError, match=r"contains files, but no training run; .*--output"):
            fit(make_config(videos), tmp_path / "other", resume=resume)
    with pytest.raises(XViTError, match="is a file"):
        fit(make_config(videos), tmp_path / "other" / "thesis.txt")


def test_incomplete_and_later_rows_are_deleted(videos, tmp_path):
    fit(make_config(videos, epochs=1), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(before + json.dumps({"stage": "train", "step": 4}) + '\n{"stage": "tr')
    (tmp_path / "bad_videos.jsonl").write_text('{"path": "a.mp4", "reason": "empty"}\n{"path": "b.m')
    assert fit(make_config(videos, epochs=1), tmp_path, resume=True).bad_videos == 1
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert (tmp_path / "bad_videos.jsonl").read_text().endswith('"empty"}\n')


DAMAGED_ROWS = [b"\0\0\0", b"\xff\xfe", b"[]", b"null", b"7", b"{}", b'{"step": "3", "path": 1}', b"[" * 100_000]
DAMAGED_ROWS += [b'{"step": null, "path": "a.mp4", "outcome": "lost"}', b"9" * 5000, b'{"step": 1,']


def test_a_damaged_row_is_named(videos, tmp_path):
    fit(make_config(videos, epochs=1), tmp_path)
    metrics, bad_videos = tmp_path / "metrics.jsonl", tmp_path / "bad_videos.jsonl"
    bad_videos.write_text('{"path": "a.mp4", "reason": "empty"}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path, expected in ((metrics, 'a metric row with "step"'), (bad_videos, 'a video with "path"')):
        for row in DAMAGED_ROWS:
            path.write_bytes(before[path] + row + b"\n" + before[path])
            line = before[path].count(b"\n") + 1
            message = rf"{path.name} line {line}: damaged: expected {expected}, got .*; remove this line$"
            with pytest.raises(XViTError, match=message):
                fit(make_config(videos, epochs=1), tmp_path, resume=True)
        path.write_bytes(before[path])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def set_values(**values):
    """A damage of train_state.json: other values."""
    return lambda content: json.dumps(json.loads(content) | values).encode()


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "missing": None,
}
STATES = {"step": "3", "epoch": -1, "best_epoch": 1.5, "seconds": None, "best_metrics": [], "data_hash": 3, "lr": 1}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("optimizer.bin", "model.safetensors", "train_state.json", "random_states_0.pkl")
        for damage in DAMAGES.values()
    ]
    + [("ema_model.safetensors", damage) for damage in DAMAGES.values()]
    + [("train_state.json", set_values(**{key: value})) for key, value in STATES.items()]
    + [("train_state.json", set_values(step=4))],  # of another state
)
def test_a_corrupt_state_is_named(finished, name, damage):
    config, output = finished
    path = output / "state" / "step_0000003" / name
    content = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(content))
    try:
        with pytest.raises(XViTError, match=r"step_0000003: corrupt .*all saved states are corrupt.*--output"):
            fit(config, output, resume=True)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """The recipe and the folder of a finished run with averaged weights."""
    config, output = make_config(videos, epochs=1, ema_decay=0.9), tmp_path_factory.mktemp("finished") / "run"
    fit(config, output)
    return config, output


def test_a_run_of_an_earlier_version_is_refused(videos, tmp_path):
    fit(make_config(videos, epochs=1), tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("grad_accum_steps", "accumulate"))
    with pytest.raises(XViTError, match=r"config\.yaml: .*earlier version of xvit: .*accumulate.*grad_accum_steps"):
        fit(make_config(videos, epochs=1), tmp_path, resume=True)
