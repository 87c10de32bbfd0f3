"""Upload to the Hub and download from it, with the Hub replaced by a local directory."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit import XViT
from xvit.checkpoint import hub
from xvit.checkpoint.hub import push_to_hub
from xvit.utils.errors import XViTError


def test_upload_and_download(tmp_path, monkeypatch):
    """push_to_hub uploads a complete directory; hf:// downloads it."""
    model = with_metadata(make_model(), list(CLASSES))
    uploaded = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id, **options):
            assert (repo_id, options) == ("me/colours", {"private": True, "exist_ok": True})

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, uploaded)
            return SimpleNamespace(commit_url="https://hub/me/colours/commit/1")

    monkeypatch.setattr(hub, "HfApi", Api)
    assert push_to_hub(model, "me/colours", private=True) == "https://hub/me/colours/commit/1"

    def download(name, *, revision, allow_patterns):
        assert (name, revision) == ("me/colours", "v2")
        return str(uploaded)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", download)
    (tmp_path / "me").mkdir()  # local folders do not matter
    loaded = XViT.from_pretrained("hf://me/colours", revision="v2").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The Hub must not be asked; the working directory is empty."""

    def download(name, **options):
        raise AssertionError(f"the Hub was asked for {name}")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("folder_exists", [False, True])
@pytest.mark.parametrize(
    "name", ["run/best", "run", "./run/best", "run/a/best", "../best", "/nowhere/best", "hf:/run/best"]
)
def test_a_path_that_does_not_exist_is_never_asked_of_the_hub(name, folder_exists, offline, tmp_path):
    if folder_exists:
        (tmp_path / "run").mkdir()
    with pytest.raises(XViTError) as caught:
        XViT.from_pretrained(name)
    hints = {
        "run/best": "; for a repository of the Hugging Face Hub write hf://run/best",
        "run": ". Models that come with xvit: motion",
    }
    expected = f"{name}: no such checkpoint directory{hints.get(name, '')}"
    if (name, folder_exists) == ("run", True):
        expected = "run: not a checkpoint directory, model.safetensors and config.json missing"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "name", ["hf://", "hf://run", "hf://a/b/c", "hf://../best", "hf:///etc", "hf://a/b?c", "hf://a b/c"]
)
def test_a_name_that_no_repository_has_is_refused(name, offline):
    with pytest.raises(XViTError, match="expected a repository of the Hugging Face Hub as hf://owner/name"):
        XViT.from_pretrained(name)


@pytest.mark.parametrize("command", ["predict", "timeline", "stream", "export", "info"])
def test_commands_refuse_a_misspelt_path_before_anything_else(command, offline, cli_error, tmp_path):
    (tmp_path / "a.mp4").touch()
    words = {"info": [], "export": ["run/best", "--output", "out", "--videos", "a.mp4"]}.get(command, ["a.mp4"])
    options = [] if command == "export" else ["--checkpoint", "run/best"]
    assert "write hf://run/best" in cli_error(command, *words, *options)


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(monkeypatch):
    def download(name, **options):
        raise PermissionError(13, "Permission denied", "/home/me/.cache")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(XViTError, match=r"Permission denied: '/home/me/\.cache'; set HF_HOME to a folder that"):
        XViT.from_pretrained("hf://me/colours")


def test_a_failed_download_is_one_line(monkeypatch):
    def download(name, **options):
        raise RuntimeError("a\nproxy")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(
        XViTError, match=r"^hf://me/colours: cannot be downloaded from the Hugging Face Hub \(a proxy\)$"
    ):
        XViT.from_pretrained("hf://me/colours")
