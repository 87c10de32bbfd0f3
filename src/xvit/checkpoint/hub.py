"""Finding a checkpoint by path or name, and uploading one to the Hugging Face Hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from xvit.checkpoint.format import CONFIG, EXPORTED, WEIGHTS
from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import previous_version


class Saveable(Protocol):
    """A model with `save_pretrained`, such as `xvit.XViT`."""

    def save_pretrained(self, directory: str | Path) -> None: ...


def find_checkpoint(source: str | Path, revision: str | None = None) -> Path:
    """The checkpoint directory at a path, or else of that name on the Hugging Face Hub.

    A path below an existing folder is never looked up on the Hub.

    Args:
        source: a directory, or an `owner/name` on the Hub; its local cache needs no network.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        XViTError: there is none, or it is not a checkpoint directory.
    """
    path = Path(source)
    if not path.exists() and previous_version(path).is_dir():
        return previous_version(path)  # its writer was killed between two renames
    if not path.exists():
        path = _download(str(source), revision)
    if not path.is_dir():
        raise XViTError(f"{path}: a file; expected a checkpoint directory holding {WEIGHTS} and {CONFIG}")
    missing = [name for name in (WEIGHTS, CONFIG) if not (path / name).is_file()]
    if WEIGHTS in missing and (path / EXPORTED).is_file():
        raise XViTError(f"{path}: an exported model, for xvit predict and eval only; expected the checkpoint itself")
    if missing:
        inner = next((name for name in ("best", "last") if (path / name / CONFIG).is_file()), None)
        hint = f'. It is a training run: did you mean "{path / inner}"?' if inner else ""
        if not inner and (path / "state").is_dir():
            hint = ". It is a training run that stopped before its first checkpoint: continue it with --resume"
        raise XViTError(f"{path}: not a checkpoint directory, {' and '.join(missing)} missing{hint}")
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
    not_found, parts = f"{name}: no such checkpoint directory", Path(name).parts
    if len(parts) != 2 or Path(parts[0]).exists():
        raise XViTError(not_found)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
    except HFValidationError:  # not a name of a repository
        raise XViTError(not_found) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise XViTError(f"{not_found}, and not on the Hugging Face Hub either ({one_line(error)})") from None
