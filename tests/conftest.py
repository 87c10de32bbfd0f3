"""Fixtures shared by the test modules: videos, a checkpoint, a recipe, the command line."""

import gc
import logging
import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # set before torch is imported, and inherited by subprocesses

import hypothesis
import pytest
import torch
import yaml

from helpers.tiny import TINY_MODEL, TINY_RECIPE
from xvit.cli.main import main
from xvit.config import ClipSpec, model_config
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.data.synthetic.motion import CLASSES
from xvit.models.backbone import resolve_clip_spec
from xvit.models.xvit import XViT

# Tests and their subprocesses inherit it, and it is ignored where they are started in the background of a script.
signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    torch.empty(1).share_memory_()
except RuntimeError:  # on a machine without shared memory the loader says so, which is no part of what is tested
    logging.getLogger("xvit").addFilter(lambda record: "no usable shared memory" not in record.getMessage())

hypothesis.settings.register_profile("tests", deadline=None)  # the time of a test depends on the machine's load
hypothesis.settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Each training collects garbage, which takes longest for the objects of the libraries: they stay anyway."""
    gc.freeze()


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """A motion data set with one training video and one validation video per class. Read-only."""
    root = tmp_path_factory.mktemp("motion") / "videos"
    write_motion_dataset(root, clips_per_class=2, val_fraction=0.5, seed=1)
    return root


@pytest.fixture
def no_drawing(monkeypatch) -> None:
    """Plots are empty files: drawing them takes longer than all the rest of a command."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: Path(path).touch())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny model with random weights and the motion classes. Read-only."""
    directory = tmp_path_factory.mktemp("checkpoint") / "best"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = XViT(model_config(**TINY_MODEL, num_classes=len(CLASSES)))
    model.clip_spec = resolve_clip_spec(ClipSpec(**TINY_RECIPE["clip"]), model.backbone)
    model.class_names, model.provenance = sorted(CLASSES), {"seed": 1}
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    """A recipe that trains in about a second. Read-only."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_RECIPE))
    return path


@pytest.fixture
def run(capfd):
    """A function that runs a command in this process and returns its exit code, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def cli_error(run):
    """A function that runs a command with invalid arguments or input and returns its error message.

    It checks that the exit code is 2 and that the only output is one line on standard error.
    """

    def cli_error(*arguments) -> str:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert err.startswith("xvit: error: ")
        return err.removeprefix("xvit: error: ").strip()

    return cli_error


@pytest.fixture
def quick_retries(monkeypatch):
    """Retries of downloads wait for milliseconds, and nothing is allowed or known from other tests."""
    from xvit.data.remote import download, stores

    monkeypatch.setattr(download, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(download, "_denied", download.Counter())
    monkeypatch.setattr(download, "_readable", set())
    monkeypatch.setattr(stores, "_file_systems", {})
    monkeypatch.setenv("XVIT_ALLOW_REMOTE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, whose camera shows a made video; skips the test without one, if the environment says so."""
    from helpers.browser import find_chromium, open_chromium, write_camera_file

    find_chromium()
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    write_camera_file(camera)
    with open_chromium(camera) as browser:
        yield browser


@pytest.fixture(scope="session")
def s3_server():
    """A server of S3 on this machine; use `s3`."""
    from helpers.remote import FaultyS3

    server = FaultyS3()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server, quick_retries, monkeypatch, tmp_path):
    """A server of S3 without faults, of which the environment holds the address and the keys."""
    names = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"]
    names += ["AWS_EC2_METADATA_DISABLED", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]
    values = [s3_server.url, "good", "good", "us-east-1", "true", str(tmp_path / "none"), str(tmp_path / "none")]
    for name, value in zip(names, values, strict=True):
        monkeypatch.setenv(name, value)
    s3_server.fault, s3_server.denied, s3_server.injected = None, False, 0
    s3_server.log.clear()
    return s3_server
