"""What a checkpoint directory holds. Without torch: commands check their paths before imports that take seconds."""

import re
from pathlib import Path

from xvit.utils.errors import XViTError, did_you_mean, one_line
from xvit.utils.files import previous_version

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
HUB_PREFIX = "hf://"
EXPORTED = "export.json"  # replaces the weights in the directory of an exported model (`xvit.export.runtime`)
BUNDLED = Path(__file__).parents[1] / "bundled"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def find_local_checkpoint(source: str | Path) -> Path | None:
    """The checkpoint directory at a path; None if `source` is a repository of the Hugging Face Hub, hf://owner/name.

    Only this prefix leads to the Hub: a misspelt path must not ask it for whatever has that name there. Where nothing
    has this path, it may be the name of a bundled model, such as "motion".

    Raises:
        XViTError: no such directory, not a checkpoint directory, not a name of a repository.
    """
    if str(source).startswith(HUB_PREFIX):
        if not _REPOSITORY.fullmatch(hub_name(source)):
            raise XViTError(f"{source}: expected a repository of the Hugging Face Hub as {HUB_PREFIX}owner/name")
        return None
    path = resolve_bundled(source)
    if not path.exists() and previous_version(path).is_dir():
        path = previous_version(path)  # its writer was killed between two renames
    if not path.exists():
        names, hint = bundled_models(), ""
        if _REPOSITORY.fullmatch(str(source)):
            hint = f"; for a repository of the Hugging Face Hub write {HUB_PREFIX}{source}"
        elif path.name == str(source):
            hint = f".{did_you_mean(path.name, names)} Models that come with xvit: {', '.join(names)}"
        raise XViTError(f"{source}: no such checkpoint directory{hint}")
    check_checkpoint_directory(path)
    return path


def bundled_models() -> list[str]:
    """Names of the trained models that are installed with xvit."""
    return sorted(path.name for path in BUNDLED.iterdir())


def resolve_bundled(source: str | Path) -> Path:
    """The path, or the directory of the bundled model of that name, such as "motion", if nothing is at the path."""
    path = Path(source)
    return BUNDLED / path if str(source) in bundled_models() and not path.exists() else path


def hub_name(source: str | Path) -> str:
    """The owner/name of hf://owner/name."""
    return str(source).removeprefix(HUB_PREFIX)


def explain_hub_error(error: Exception) -> str:
    """Why a download failed, in one line; if its local cache cannot be written, with the variable that moves it."""
    is_file_error = isinstance(error, OSError) and error.filename is not None
    return one_line(error) + ("; set HF_HOME to a folder that can be written" if is_file_error else "")


def check_checkpoint(source: str | Path) -> None:
    """Raise `XViTError` if there is no checkpoint at a path, unless it is hf://owner/name."""
    find_local_checkpoint(source)


def check_model(source: str | Path) -> None:
    """`check_checkpoint`, for commands that also run exported models."""
    if not (Path(source) / EXPORTED).is_file():
        find_local_checkpoint(source)


def check_checkpoint_directory(path: Path) -> None:
    """Raise `XViTError` unless a path that exists is a checkpoint directory."""
    hides = "the model of that name that comes with xvit: rename it, or run the command in another folder"
    hidden = f"; it hides {hides}" if str(path) in bundled_models() else ""
    if not path.is_dir():
        raise XViTError(f"{path}: a file; expected a checkpoint directory holding {WEIGHTS} and {CONFIG}{hidden}")
    missing = [name for name in (WEIGHTS, CONFIG) if not (path / name).is_file()]
    if WEIGHTS in missing and (path / EXPORTED).is_file():
        raise XViTError(f"{path}: an exported model; this command needs the checkpoint itself")
    if missing:
        inner = next((name for name in ("best", "last") if (path / name / CONFIG).is_file()), None)
        hint = f'. It is a training run: did you mean "{path / inner}"?' if inner else ""
        if not inner and (path / "state").is_dir():
            hint = ". It is a training run that stopped before its first checkpoint: continue it with --resume"
        raise XViTError(f"{path}: not a checkpoint directory, {' and '.join(missing)} missing{hint or hidden}")
