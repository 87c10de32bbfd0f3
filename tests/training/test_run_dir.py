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
    for name in ("metrics.jsonl", "bad_videos.jsonl"):  # by a disk, say
        content = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"\0\0\0\n{content}")
        with pytest.raises(XViTError, match=rf"{name}: damaged \(Expecting value: .*; remove the damaged rows"):
            fit(make_config(videos, epochs=1), tmp_path, resume=True)
        (tmp_path / name).write_text(content)


def test_a_corrupt_state_is_named(videos, tmp_path):
    fit(make_config(videos, epochs=1), tmp_path / "run")
    state = tmp_path / "run" / "state" / "step_0000003"
    for name in ("optimizer.bin", "model.safetensors", "train_state.json"):
        content = (state / name).read_bytes()
        (state / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(XViTError, match=r"step_0000003: corrupt .*all saved states are corrupt.*--output"):
            fit(make_config(videos, epochs=1), tmp_path / "run", resume=True)
        (state / name).write_bytes(content)


def test_a_run_of_an_earlier_version_is_refused(videos, tmp_path):
    fit(make_config(videos, epochs=1), tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("grad_accum_steps", "accumulate"))
    with pytest.raises(XViTError, match=r"config\.yaml: .*earlier version of xvit: .*accumulate.*grad_accum_steps"):
        fit(make_config(videos, epochs=1), tmp_path, resume=True)
