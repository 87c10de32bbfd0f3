"""Every Python and shell block of the README and the documents runs, in order, or says why it cannot run here.

A block `output` shows what the block before it prints.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.documents import DocumentRunner, copy_into, document_paths
from xvit.cli.main import main
from xvit.config import RunConfig, find_recipe, model_config, read_config
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.data.synthetic.motion import CLASSES
from xvit.models.backbone import resolve_clip_spec
from xvit.models.official import their_name
from xvit.models.xvit import XViT
from xvit.utils.checkpoint_path import BUNDLED

ROOT = Path(__file__).parents[1]
LABELS = ["Holding something", "Opening something", "Closing something"]
Make = Callable[[str], Path]
WITH_CODE = [
    path
    for path in document_paths(ROOT)
    if re.search(r"^ *```(sh|python)$", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Make:
    """What stands for a file or folder that documents name: made when the first of them needs it. Read-only."""
    folder = tmp_path_factory.mktemp("stand_ins")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            MAKERS[name](path, make)
        return path

    return make


def _videos(path: Path, make: Make) -> None:
    write_motion_dataset(path, clips_per_class=8, val_fraction=0.25, seed=1)
    write_motion_dataset(path.with_name("others"), clips_per_class=2, val_fraction=0.5, seed=2)
    path.with_name("others").joinpath("val").rename(path / "test")


def _model(path: Path, make: Make) -> None:
    copy_into(path, {"best": BUNDLED / "motion", "last": BUNDLED / "motion"})


def _centered(path: Path, make: Make) -> None:
    config = read_config(RunConfig, find_recipe("motion-streaming"))
    model = XViT(replace(config.model, num_classes=len(CLASSES), causal=False))
    model.clip_spec, model.class_names = resolve_clip_spec(config.clip, model.backbone), sorted(CLASSES)
    model.save_pretrained(path / "best")


def _clip(path: Path, make: Make) -> None:
    copy_into(path.parent, {path.name: make("videos") / "val" / "receding" / "0000.mp4"})


def _long(path: Path, make: Make) -> None:
    assert main(["data", "motion", "--output", str(path), "--concatenate", "1", "--clips-per-video", "5"]) == 0


def _match(path: Path, make: Make) -> None:
    copy_into(path.parent, {path.name: next(make("long").glob("*.mp4"))})


def _clips(path: Path, make: Make) -> None:
    for label in ("moving_left", "receding"):
        copy_into(path / label, {video.name: video for video in (make("videos") / "train" / label).iterdir()})


def _list(path: Path, make: Make) -> None:
    path.write_text("\n".join(map(str, sorted(make("videos").rglob("*.mp4")))))


def _official(path: Path, make: Make) -> None:
    """A small checkpoint with the authors' names of tensors; the Kinetics one has temporal positions of one segment."""
    slots = 8 if path.name.startswith("k600") else 16
    backbone = {"depth": 1, "embed_dim": 64, "num_heads": 1}
    model = XViT(
        model_config(
            backbone="vit_base_patch16_224",
            num_classes=len(LABELS),
            num_frames=slots,
            frame_projection=True,
            classifier_hidden=64,
            backbone_kwargs=backbone,
        )
    )
    state = {their_name(name): x for name, x in model.state_dict().items()}
    state["base_model.temp_embed"] = state["base_model.temp_embed"].unsqueeze(2)  # (1, slots, 1, D)
    torch.save({"model_state": state}, path)


def _labels(path: Path, make: Make) -> None:
    path.write_text(json.dumps({name: str(index) for index, name in enumerate(LABELS)}))


def _ssv2(path: Path, make: Make) -> None:
    copy_into(path, {"1.mp4": make("clip.mp4")})


def _ssv2_list(path: Path, make: Make) -> None:
    path.write_text(json.dumps([{"id": "1", "template": "Holding [something]"}]))


def _ssv2_download(path: Path, make: Make) -> None:
    """The videos, and the annotations beside them, named as in the data set."""
    videos = sorted(make("videos").glob("*/moving_left/*.mp4"))[:8]
    copy_into(path, {f"{id}.mp4": video for id, video in enumerate(videos)})
    for split, ids in {"train": range(4), "validation": range(4, 7), "test": [7]}.items():
        labels = {} if split == "test" else {"template": "Holding [something]"}
        rows = [{"id": str(id), **labels} for id in ids]
        path.with_name(f"something-something-v2-{split}.json").write_text(json.dumps(rows))


def _beside_ssv2(path: Path, make: Make) -> None:
    make("20bn-something-something-v2")


def _old_recipe(path: Path, make: Make) -> None:
    path.write_text("model:\n  tubelet: 2\n")


def _old_run(path: Path, make: Make) -> None:
    copy_into(path, {"best": ROOT / "tests" / "assets" / "format1" / "single"})


def _examples(path: Path, make: Make) -> None:
    copy_into(path.parent, {path.name: ROOT / "examples"})


def _export(*options: str) -> Callable[[Path, Make], None]:
    def make_export(path: Path, make: Make) -> None:
        videos = str(make("videos") / "train")
        assert main(["export", "motion", "--output", str(path), "--videos", videos, "--clips", "4", *options]) == 0

    return make_export


MAKERS: dict[str, Callable[[Path, Make], None]] = {
    "videos": _videos,
    "run": _model,
    "live": _model,
    "centered": _centered,
    "clip.mp4": _clip,
    "long": _long,
    "match.mp4": _match,
    "clips": _clips,
    "videos.txt": _list,
    "onnx": _export(),
    "step": _export("--streaming"),
    "other": _clips,
    "list.txt": _list,
    "k600_16f.pyth": _official,
    "ssv2_16f.pyth": _official,
    "20bn-something-something-v2": _ssv2_download,
    "something-something-v2-train.json": _beside_ssv2,
    "something-something-v2-validation.json": _beside_ssv2,
    "something-something-v2-test.json": _beside_ssv2,
    "something-something-v2-labels.json": _labels,
    "ssv2-videos": _ssv2,
    "validation.json": _ssv2_list,
    "old.yaml": _old_recipe,
    "old-run": _old_run,
    "examples": _examples,
}


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_blocks_run(path, tmp_path, stand_ins, run, monkeypatch, no_drawing):
    text = path.read_text(encoding="utf-8")
    names = [name for name in MAKERS if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", text)]
    copy_into(tmp_path, {name: stand_ins(name) for name in names})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    runner = DocumentRunner(tmp_path, run)
    runner(path)
    blocks = len(re.findall(r"^ *```(?:sh|python|output)$", text, flags=re.MULTILINE))
    assert runner.blocks == blocks
    print(f"{path.name}: {blocks} blocks, {len(runner.commands)} commands run, {len(runner.not_run)} parsed")
