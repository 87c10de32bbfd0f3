"""What a checkpoint directory holds. Without torch: commands check their paths before imports that take seconds."""

from pathlib import Path

from xvit.utils.errors import XViTError
from xvit.utils.files import previous_version

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
EXPORTED = "export.json"  # replaces the weights in the directory of an exported model (`xvit.export.runtime`)


def find_local_checkpoint(source: str | Path) -> Path | None:
    """The checkpoint directory at a path; None if `source` may be a name on the Hugging Face Hub.

    A path below an existing folder is never looked up on the Hub.

    Raises:
        XViTError: no such directory, not a checkpoint directory.
    """
    path = Path(source)
    if not path.exists() and previous_version(path).is_dir():
        path = previous_version(path)  # its writer was killed between two renames
    if not path.exists():
        if len(path.parts) != 2 or Path(path.parts[0]).exists():
            raise XViTError(f"{source}: no such checkpoint directory")
        return None
    check_checkpoint_directory(path)
    return path


def check_checkpoint(source: str | Path) -> None:
    """Raise `XViTError` if there is no checkpoint at a path, and it cannot be a name on the Hub either."""
    find_local_checkpoint(source)


def check_model(source: str | Path) -> None:
    """`check_checkpoint`, for commands that also run exported models."""
    if not (Path(source) / EXPORTED).is_file():
        find_local_checkpoint(source)


def check_checkpoint_directory(path: Path) -> None:
    """Raise `XViTError` unless a path that exists is a checkpoint directory."""
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
