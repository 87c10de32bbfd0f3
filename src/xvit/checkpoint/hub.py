"""Finding a checkpoint by path or name, and uploading one to the Hugging Face Hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from huggingface_hub import HfApi, snapshot_download

from xvit.utils.checkpoint_path import (
    CONFIG,
    HUB_PREFIX,
    WEIGHTS,
    check_checkpoint_directory,
    explain_hub_error,
    find_local_checkpoint,
    hub_name,
)
from xvit.utils.errors import XViTError


class Saveable(Protocol):
    """A model with `save_pretrained`, such as `xvit.XViT`."""

    def save_pretrained(self, directory: str | Path) -> None: ...


def find_checkpoint(source: str | Path, revision: str | None = None) -> Path:
    """The checkpoint directory at a path, or a downloaded one for hf://owner/name; see `find_local_checkpoint`.

    Args:
        source: a directory, the name of a bundled model, or hf://owner/name on the Hugging Face Hub, whose local cache
            needs no network.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        XViTError: there is none, or it is not a checkpoint directory.
    """
    path = find_local_checkpoint(source)
    if path is None:
        path = _download(hub_name(source), revision)
        check_checkpoint_directory(path)
    return path


def push_to_hub(model: Saveable, repo_id: str, *, private: bool | None = None, message: str = "Upload an XViT") -> str:
    """Upload what `save_pretrained` writes to the Hugging Face Hub. Log in first (`hf auth login`).

    Args:
        model: a trained model.
        repo_id: `owner/name`; created if it does not exist.
        private: whether a new repository is private; the account's default if None.
        message: of the commit.

    Returns:
        The URL of the commit.
    """
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        commit = api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model", commit_message=message)
    return str(commit.commit_url)


def _download(name: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
    except Exception as error:  # the network, the Hub and its cache raise many kinds
        reason = explain_hub_error(error)
        raise XViTError(f"{HUB_PREFIX}{name}: cannot be downloaded from the Hugging Face Hub ({reason})") from None
