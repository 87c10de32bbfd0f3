"""The model that comes with xvit: its name, its files, its accuracy."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import xvit
from xvit.cli.main import find_command
from xvit.cli.parsing import parse_command
from xvit.data.synthetic import BACKGROUND, CLASSES
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.models.streaming import Stream
from xvit.utils.checkpoint_path import BUNDLED, bundled_models
from xvit.utils.errors import XViTError

MOTION = BUNDLED / "motion"
PROVENANCE = json.loads((MOTION / "config.json").read_text())["provenance"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_files_are_small_and_packaged():
    files = {path for path in BUNDLED.rglob("*") if path.is_file()}
    assert {path.name for path in files} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert sum(path.stat().st_size for path in files) < 1_000_000
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = root / "src" / "xvit"
    packaged = {path.resolve() for pattern in settings["package-data"]["xvit"] for path in package.glob(pattern)}
    assert files <= packaged


def test_the_card_states_accuracy_and_seeds():
    metrics, data = PROVENANCE["metrics"], PROVENANCE["data"]
    assert metrics["top1"] >= 0.95
    assert metrics["videos"] >= 1000
    assert len({metrics["seed_of_videos"], data["seed"], 0}) == 3  # 0: of `xvit data motion` and `xvit demo`
    facts = dict(line.split(" | ", 1) for line in (MOTION / "README.md").read_text().splitlines() if " | " in line)
    assert f"top1 {metrics['top1']:.4g}" in facts["| metrics"].replace("&#95;", "_")
    for text in (metrics["interval_95"], f"videos {metrics['videos']}", f"videos {metrics['seed_of_videos']}"):
        assert text in facts["| metrics"].replace("&#95;", "_")
    assert f"seed {data['seed']}" in facts["| data"]


def test_accuracy_is_what_the_card_states(tmp_path):
    """On a few new videos, within three standard deviations."""
    write_motion_dataset(tmp_path / "videos", clips_per_class=4, val_fraction=1, seed=3, background=True)
    paths = sorted((tmp_path / "videos").rglob("*.mp4"))
    predictions = list(xvit.Predictor("motion").predict(paths))
    correct = [prediction.labels[0] == path.parent.name for path, prediction in zip(paths, predictions, strict=True)]
    expected = PROVENANCE["metrics"]["top1"]
    assert len(correct) == 4 * (len(CLASSES) + 3)
    assert np.mean(correct) > expected - 3 * np.sqrt(expected * (1 - expected) / len(correct))


def test_it_can_be_streamed():
    model = xvit.XViT.from_pretrained("motion")
    assert Stream(model).latency_frames == 0
    assert sorted(model.class_names) == sorted([*CLASSES, BACKGROUND])


@pytest.mark.parametrize(
    "command",
    [
        "predict video.mp4 --checkpoint {}",
        "eval --data.root . --checkpoint {}",
        "timeline video.mp4 --checkpoint {}",
        "stream video.mp4 --checkpoint {}",
        "features video.mp4 --output out.npy --checkpoint {}",
        "info --checkpoint {}",
        "export {} --output out --videos video.mp4",
    ],
    ids=lambda command: command.split()[0],
)
def test_commands_accept_its_name(command, cli_error):
    Path("video.mp4").touch()
    parse_command(*find_command(command.format("motion").split()))
    message = cli_error(*command.format("moton").split())
    assert 'moton: no such checkpoint directory. Did you mean "motion"? Models that come with xvit: motion' in message


def test_predict_prints_its_classes(run, videos):
    code, out, _ = run(
        "predict", videos / "val" / "moving_left", "--checkpoint", "motion", "--num-workers", 0, "--json"
    )
    assert code == 0
    [prediction] = json.loads(out)["predictions"]
    assert prediction["labels"][0] == "moving_left"


def test_a_checkpoint_of_that_name_comes_first(checkpoint):
    shutil.copytree(checkpoint, "motion")
    assert xvit.XViT.from_pretrained("motion").class_names == sorted(CLASSES)


def test_other_things_of_that_name_are_an_error():
    """Perhaps a data set, or a run: neither is ignored."""
    Path("motion").mkdir()
    hides = "it hides the model of that name that comes with xvit: rename it, or run the command in another folder"
    with pytest.raises(XViTError, match=rf"^motion: not a checkpoint directory, .* missing; {hides}$"):
        xvit.Predictor("motion")
    shutil.copytree(MOTION, "motion/best")
    with pytest.raises(XViTError, match=r'did you mean "motion/best"\?$'):
        xvit.Predictor("motion")
    shutil.rmtree("motion")
    Path("motion").touch()
    with pytest.raises(XViTError, match=rf"^motion: a file; .*; {hides}$"):
        xvit.Predictor("motion")


def test_only_the_bare_name_is_bundled():
    assert bundled_models() == ["motion"]
    for name in ("./motion", "runs/motion", "Motion"):
        with pytest.raises(XViTError, match="no such checkpoint directory"):
            xvit.Predictor(name)


def test_training_starts_from_it(run, videos):
    words = ["train", "--config", "finetune", "--init.checkpoint_path", "motion", "--data.root", videos]
    code, out, _ = run(*words, "--print-config")
    assert code == 0
    assert "embed_dim: 64" in out
    trained = xvit.XViT.from_pretrained("motion")
    config = trained.config
    options = {"backbone_kwargs": config.backbone_kwargs, "spatial_position": "sincos"}
    model = xvit.create_model(config.backbone, num_classes=2, checkpoint_path="motion", **options)
    for name, tensor in trained.backbone.state_dict().items():
        assert model.backbone.state_dict()[name].equal(tensor), name
