"""What several test files need: few threads, made videos, a model on disk, a recipe that takes a second."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, and for subprocesses: tests run side by side

import pytest
import yaml

from helpers.tiny import TINY_MODEL, TINY_RECIPE
from xvit.cli.main import main
from xvit.config import ClipSpec, model_config
from xvit.data.synthetic.motion import CLASSES, write_motion_dataset
from xvit.models.backbone import resolve_clip_spec
from xvit.models.xvit import XViT


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A small motion data set: one training video and one held-out video a class. Not to be written to."""
    root = tmp_path_factory.mktemp("motion") / "videos"
    write_motion_dataset(root, clips_per_class=2, val_fraction=0.5, seed=1)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny model with random weights that names the motion classes. Not to be written to."""
    directory = tmp_path_factory.mktemp("checkpoint") / "best"
    clip = ClipSpec(**TINY_RECIPE["clip"])
    model = XViT(model_config(**TINY_MODEL, num_classes=len(CLASSES)))
    model.clip_spec, model.class_names, model.provenance = (
        resolve_clip_spec(clip, model.backbone),
        sorted(CLASSES),
        {"seed": 1},
    )
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    """A recipe that trains in about a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_RECIPE))
    return path


@pytest.fixture
def run(capfd):
    """Run a command in this process."""

    def run(*words) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(run):
    """Run a command that is the user's mistake: nothing on the standard output, one line on the other. The line."""

    def refused(*words) -> str:
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith("xvit: error: ")
        return err.removeprefix("xvit: error: ").strip()

    return refused
