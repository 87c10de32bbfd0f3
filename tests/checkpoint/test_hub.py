"""Upload to the Hub and download from it, with the Hub replaced by a local directory."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from helpers.color_videos import CLASSES, make_model, with_metadata
from xvit import XViT
from xvit.checkpoint import hub, push_to_hub
from xvit.utils.errors import XViTError


def test_upload_and_download(tmp_path, monkeypatch):
    """push_to_hub uploads a complete directory; a name that is not a local path is looked up on the Hub."""
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
    loaded = XViT.from_pretrained("me/colours", revision="v2").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
    (tmp_path / "me").mkdir()
    # The folder "me" exists now, so the name is read as a path.
    with pytest.raises(XViTError, match=r"me/colours: no such checkpoint directory$"):
        XViT.from_pretrained("me/colours", revision="v2")
