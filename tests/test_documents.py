"""Every Python and shell block of the README and the documents runs, in order, or says why it cannot run here."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.documents import DocumentRunner, copy_into, skip_reasons
from xvit.cli.main import main
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.utils.checkpoint_path import BUNDLED

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [
    path
    for path in DOCUMENTS
    if "/_build/" not in str(path) and re.search(r"^```(sh|python)$", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Callable[[str], Path]:
    """What stands for a file or folder that documents name: made when the first of them needs it. Read-only."""
    folder = tmp_path_factory.mktemp("stand_ins")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            MAKERS[name](path, make)
        return path

    return make


def _videos(path: Path, make: Callable[[str], Path]) -> None:
    write_motion_dataset(path, clips_per_class=4, val_fraction=0.5, seed=1)


def _model(path: Path, make: Callable[[str], Path]) -> None:
    copy_into(path, {"best": BUNDLED / "motion", "last": BUNDLED / "motion"})


def _clip(path: Path, make: Callable[[str], Path]) -> None:
    copy_into(path.parent, {path.name: make("videos") / "val" / "receding" / "0000.mp4"})


def _long(path: Path, make: Callable[[str], Path]) -> None:
    assert main(["data", "motion", "--output", str(path), "--concatenate", "1", "--clips-per-video", "5"]) == 0


def _match(path: Path, make: Callable[[str], Path]) -> None:
    copy_into(path.parent, {path.name: next(make("long").glob("*.mp4"))})


def _clips(path: Path, make: Callable[[str], Path]) -> None:
    for label in ("moving_left", "receding"):
        copy_into(path / label, {video.name: video for video in (make("videos") / "train" / label).iterdir()})


def _list(path: Path, make: Callable[[str], Path]) -> None:
    path.write_text("\n".join(map(str, sorted(make("videos").rglob("*.mp4")))))


def _export(*options: str) -> Callable[[Path, Callable[[str], Path]], None]:
    def make_export(path: Path, make: Callable[[str], Path]) -> None:
        videos = str(make("videos") / "train")
        assert main(["export", "motion", "--output", str(path), "--videos", videos, "--clips", "4", *options]) == 0

    return make_export


MAKERS: dict[str, Callable[[Path, Callable[[str], Path]], None]] = {
    "videos": _videos,
    "run": _model,
    "live": _model,
    "centered": _model,
    "clip.mp4": _clip,
    "long": _long,
    "match.mp4": _match,
    "clips": _clips,
    "videos.txt": _list,
    "onnx": _export(),
    "step": _export("--streaming"),
}


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_blocks_run(path, tmp_path, stand_ins, run, monkeypatch, no_drawing):
    text = path.read_text(encoding="utf-8")
    names = [name for name in MAKERS if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", text)]
    copy_into(tmp_path, {name: stand_ins(name) for name in names})
    monkeypatch.chdir(tmp_path)
    runner = DocumentRunner(tmp_path, run)
    runner(path)
    blocks = len(re.findall(r"^```(?:sh|python)$", text, flags=re.MULTILINE))
    assert len(runner.executed) >= blocks
    assert set(runner.skipped.values()) == set(skip_reasons(path).values())
    print(f"{path.name}: {blocks} blocks, {len(runner.skipped)} not run")


