"""Small files and folders for the tests of annotations."""

from pathlib import Path

from xvit.data.annotations.samples import Sample


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]
