"""One video at which FFmpeg fails in an unexpected place: every command names it and goes on with the others."""

import shutil
from dataclasses import replace

import av
import pytest
import yaml

from helpers.color_videos import CLASSES, CLIP, make_config, make_model, with_metadata, write_videos
from helpers.faulty_av import FaultyAV
from xvit.config import to_dict

COMMANDS = {
    "predict": "predict {data}/val --checkpoint {model} --num-workers 0",
    "predict with a worker": "predict {data}/val --checkpoint {model} --num-workers 1",
    "eval": "eval --checkpoint {model} --data.root {data} --data.num_workers 0",
    "features": "features {data}/val --checkpoint {model} --output {output}.npy --num-workers 0",
    "timeline": "timeline {data}/val --checkpoint {model} --output {output}",
    "data check": "data check --data.root {data} --data.num_workers 0",
    "data check in full": "data check --data.root {data} --full --data.num_workers 0",
    "data resize": "data resize {data} --output {output} --num-workers 0",
    "train": "train --config {recipe} --data.root {data} --output {output}",
    "train with a worker": "train --config {recipe} --data.root {data} --output {output} --data.num_workers 1",
}
ERRORS = {
    "InputContainer.demux": RuntimeError("a fault\nin two lines"),
    "VideoFrame.reformat": av.error.PermissionError(1, "Operation not permitted", "file"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small videos, and in each split a copy named bad.mp4."""
    root = write_videos(tmp_path_factory.mktemp("data") / "videos", train=4, val=4)
    for split in ("train", "val"):
        shutil.copy(root / split / "red" / "0.mp4", root / split / "red" / "bad.mp4")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint for clips and for streams."""
    directory = tmp_path_factory.mktemp("model") / "best"
    model = with_metadata(make_model(causal=True, temporal_position="head"), list(CLASSES))
    model.clip_spec = replace(CLIP, sampling="strided", stride=2)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def recipe(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(to_dict(make_config(data, epochs=1))))
    return path


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("operation", ERRORS)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_other_videos_are_processed(name, operation, data, model, recipe, run, tmp_path, monkeypatch):
    FaultyAV(operation, ERRORS[operation], only="bad.mp4").install(monkeypatch)
    words = COMMANDS[name].format(data=data, model=model, recipe=recipe, output=tmp_path / "out").split()
    code, out, err = run(*words, "--json")
    assert code == 1
    assert "Traceback" not in err
    if name.startswith("train"):
        out = (tmp_path / "out/bad_videos.jsonl").read_text()
        assert (tmp_path / "out/best/config.json").is_file()
    assert "bad.mp4" in out
    assert ("a fault in two lines" if operation == "InputContainer.demux" else "operation not permitted") in out
    if name == "data resize":
        written = list((tmp_path / "out").rglob("*.mp4"))
        assert len(written) == 24
        assert "bad.mp4" not in {path.name for path in written}
