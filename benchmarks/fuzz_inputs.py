"""The inputs of `fuzz.py`: intact files of each kind, and the ways in which they are changed.

Every intact case is a folder, SEEDS/<target>/<case>. An input is a copy of one in which one or two files are changed.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from xvit.config import RunConfig, to_dict
from xvit.config.recipes import find_recipe
from xvit.export import ParityLimits
from xvit.export.exporter import export_model
from xvit.features.storage import write_features
from xvit.timeline.output import RESULT, open_output
from xvit.training import fit
from xvit.utils.files import write_json

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.barcode_videos import write_frames, write_video
from helpers.color_videos import CLIP, make_config, make_model, with_metadata, write_videos
from helpers.official import GOLDEN, model_state

Bytes = Callable[[bytes, bytes, np.random.Generator], bytes]

VIDEO_KINDS: tuple[str, ...] = ("h264-mp4", "h264-fragmented", "h264-mkv", "h264-ts", "h264-avi", "hevc-mp4")
VIDEO_KINDS += ("vp8-webm", "vp9-webm", "av1-mkv", "mpeg4-avi", "mpeg4-mp4", "mpeg2-mpg", "mjpeg-avi", "gif")
NUM_FRAMES, FPS = 40, 25  # of the videos
CLASSES = ["pouring water", "opening a door", "élan"]
TIMELINE_RUN = {"checkpoint": "run/best", "stride": 2}
_EDGE = 600  # bytes at the start and the end of a file that count as its headers
_EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80")
_VALUES: tuple[Any, ...] = (None, True, 0, -1, 0.5, 10**6, 10**18, 10**400, 1e308, float("nan"), float("-inf"))
_VALUES += ("", "x", "\ud800", "\x1b[31m\r\n", "../../etc", "y" * 10**5, [], {}, [[]], {"": None}, [1e999] * 3)
_DEEP = "<deep>"  # stands for lists in lists, which json cannot write
_TOKENS: tuple[str, ...] = ("", "-1", "0", "1e999", ".nan", ".inf", "9" * 400, "9" * 5000, "0x7fffffff", "null")
_TOKENS += ("2026-13-45", "12:30:61", "[" * 5000, "{" * 300, "&a [*a]", "*b", "!!python/object/apply:os.getcwd []")
_TOKENS += ("'", '"', '"a', "\t", ",,,,", "\r", "\n\n", "\0", "\ufeff", "\ud800", "\x1b[2J", "v" * 10**5)
_TOKENS += (" " * 10**4, "<<: 1", "? a", "--- ", "%TAG !")


# --- changes ---


def mutate(name: str, data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change the contents of a file one to three times; `other` is another file of its kind."""
    structured = STRUCTURED.get(Path(name).suffix)
    for _ in range(rng.integers(1, 4)):
        change = structured if structured and rng.random() < 0.6 else CHANGES[rng.integers(len(CHANGES))]
        try:
            data = change(data, other, rng)
        except (ValueError, LookupError, RecursionError):  # no longer of its kind, or empty
            data = flip_bits(data, other, rng)
    return data


def _span(size: int, rng: np.random.Generator) -> slice:
    """A block of a file: of any order of magnitude up to a third of it."""
    length = int(min(2 ** rng.uniform(0, 20), size / 3)) + 1
    start = int(rng.integers(max(size - length, 0) + 1))
    return slice(start, start + length)


def truncate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    cut = int(rng.integers(len(data) + 1))
    return data[:cut] if rng.random() < 0.8 else data[cut:]


def flip_bits(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, rng.integers(max(len(data), 1), size=rng.integers(1, 17)), rng)


def flip_header_bits(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    offsets = rng.integers(min(_EDGE, len(data)), size=rng.integers(1, 5))
    return _flip(data, offsets if rng.random() < 0.6 else len(data) - 1 - offsets, rng)


def _flip(data: bytes, positions: np.ndarray, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for position in positions:
        if position < len(changed):
            changed[position] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    span = _span(len(data), rng)
    noise = rng.random() < 0.6
    block = rng.bytes(span.stop - span.start) if noise else _EXTREMES[rng.integers(4)] * (span.stop - span.start)
    return data[: span.start] + block + data[span.stop :]


def set_header_number(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    start, size = int(rng.integers(min(_EDGE, len(data)))), int(2 ** rng.integers(4))
    start = start if rng.random() < 0.6 else max(len(data) - start - size, 0)
    return data[:start] + _EXTREMES[rng.integers(4)] * size + data[start + size :]


def splice(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)] + other[rng.integers(len(other) + 1) :]


def repeat_block(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    span = _span(len(data), rng)
    return data[: span.stop] + data[span] * int(rng.integers(1, 4)) + data[span.stop :]


def remove_block(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    span = _span(len(data), rng)
    return data[: span.start] + data[span.stop :]


def change_json(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Replace, remove or rename one value anywhere in a JSON document."""
    root = [json.loads(data)]
    places: list[tuple[Any, Any]] = [(root, 0)]
    for container, key in places:  # grows
        value = container[key]
        places += (
            [(value, k) for k in (value if isinstance(value, dict) else range(len(value)))][:50]
            if isinstance(value, dict | list)
            else []
        )
    container, key = places[rng.integers(len(places))]
    if isinstance(container, dict) and rng.random() < 0.2:
        value = container.pop(key)
        if rng.random() < 0.5:
            container[f"{key}s"] = value
    else:
        choice = int(rng.integers(len(_VALUES) + 1))
        container[key] = _DEEP if choice == len(_VALUES) else _VALUES[choice]
    depth = int(10 ** rng.uniform(1, 5))
    return json.dumps(root[0]).replace(f'"{_DEEP}"', "[" * depth + "]" * depth).encode()


def change_json_line(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    number = int(rng.integers(len(lines)))
    lines[number] = change_json(lines[number], other, rng)
    return b"\n".join(lines)


def change_token(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Replace one field of a line of text."""
    text = data.decode("utf-8", "surrogateescape")
    bounds = [0, *(i for i, character in enumerate(text[:50_000]) if character in ":, ;\n\t"), len(text)]
    first = int(rng.integers(len(bounds) - 1))
    token = _TOKENS[rng.integers(len(_TOKENS))]
    changed = text[: bounds[first] + 1] + token + text[bounds[first + 1] :]
    return changed.encode("utf-8", "surrogatepass" if "\ud800" in changed else "surrogateescape")


def change_tensor_header(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change the JSON header of a safetensors file, and state its new length."""
    length = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + length], other, rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


CHANGES: tuple[Bytes, ...] = (truncate, flip_bits, flip_header_bits, overwrite, set_header_number)
CHANGES += (splice, repeat_block, remove_block)
STRUCTURED: dict[str, Bytes] = {".json": change_json, ".jsonl": change_json_line, ".safetensors": change_tensor_header}
STRUCTURED |= dict.fromkeys((".csv", ".txt", ".yaml", ".xml"), change_token)


# --- intact cases ---


def write_seeds(seeds: Path, target: str) -> None:
    """Write the intact cases of a target, unless they are there."""
    folder, complete = seeds / target, seeds / f".{target}"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        SEED_WRITERS[target](folder)
        complete.touch()


def new_file(*parts: Any) -> Path:
    path = Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_videos(folder: Path) -> None:
    for kind in VIDEO_KINDS:
        path = new_file(folder, kind, "video")
        write_video(path.with_suffix(f".{SUFFIXES.get(kind, kind.split('-')[-1])}"), frames=NUM_FRAMES, kind=kind)
    for suffix in ("jpg", "png"):
        write_frames(folder / suffix / "frames", frames=NUM_FRAMES, name=f"frame_{{:05d}}.{suffix}")


SUFFIXES = {"h264-fragmented": "mp4"}


def _write_annotations(folder: Path) -> None:
    names = [f"video_{number:02d}" for number in range(12)]
    for name in names:  # their contents are not read
        new_file(folder.parent, "placeholders", f"{name}.mp4").write_bytes(b"video")
    labels = [CLASSES[number % 3] for number in range(12)]
    rows = list(zip(names, labels, strict=True))
    kinetics = [f'"{label}",{name},{number},{number + 10},train' for number, (name, label) in enumerate(rows)]
    ssv2 = [{"id": name, "template": label, "label": label} for name, label in rows]
    epic = [
        f"P01_{n},P01,{name},00:00:0{n % 5}.10,00:01:0{n % 5}.20,{n % 3},{n % 2},{9 * n + 60}"
        for n, name in enumerate(names)
    ]
    epic_columns = (
        "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class,stop_frame"
    )
    files = {
        "kinetics/train.csv": "\n".join(["label,youtube_id,time_start,time_end,split", *kinetics]),
        "kinetics/labels.txt": "\n".join(CLASSES),
        "ssv2/train.json": json.dumps(ssv2),
        "ssv2/labels.json": json.dumps({name: str(index) for index, name in enumerate(CLASSES)}),
        "epic/train.csv": "\n".join([epic_columns, *epic]),
        "epic/labels.csv": "id,key,instances\n" + "\n".join(f"{n},{name},[]" for n, name in enumerate(CLASSES)),
        "list/train.txt": "\n".join(f"{name}.mp4 {CLASSES.index(label)}" for name, label in rows),
        "list/labels.txt": "\n".join(f"{index} {name}" for index, name in enumerate(CLASSES)),
        "list-table/train.csv": "\n".join(["path,label", *(f'{name}.mp4,"{label}"' for name, label in rows)]),
        "list-multi/train.txt": "\n".join(f"{name}.mp4 {n % 3};{(n + 1) % 3}" for n, name in enumerate(names)),
    }
    for name, text in files.items():
        new_file(folder, name).write_text(text + "\n", encoding="utf-8")


def _write_recipes(folder: Path) -> None:
    for recipe in find_recipe("motion").parent.glob("*.yaml"):
        shutil.copy(recipe, new_file(folder, recipe.stem, "recipe.yaml"))


def _write_checkpoints(folder: Path) -> None:
    tasks = {"verb": CLASSES[:2], "noun": CLASSES}
    with_metadata(make_model(), CLASSES).save_pretrained(folder / "single")
    with_metadata(make_model({"verb": 2, "noun": 3}), tasks).save_pretrained(folder / "tasks")
    with_metadata(make_model(causal=True, temporal_position="head"), CLASSES).save_pretrained(folder / "causal")


def _write_exports(folder: Path) -> None:
    videos = write_videos(folder.parent / "colors")
    for format in ("onnx", "openvino"):
        model = with_metadata(make_model(), CLASSES)
        limits = ParityLimits(min_agreement=0)  # the weights are random
        export_model(model, folder / format, videos=[str(videos)], format=format, num_clips=3, limits=limits)


def run_config(seeds: Path) -> RunConfig:
    """The recipe of the run whose folder is changed."""
    return make_config(seeds / "colors", save_minutes=0.0, ema_decay=0.9)


def _write_run(folder: Path) -> None:
    """A run that was stopped after the first of its two epochs, so that a resumed one trains on."""
    write_videos(folder.parent / "colors")

    def stop(event: Any) -> None:
        if event.stage == "train" and event.epoch == 2:
            raise KeyboardInterrupt

    try:
        fit(run_config(folder.parent), folder / "run", on_progress=stop)
    except KeyboardInterrupt:
        shutil.rmtree(folder / "run" / "tensorboard", ignore_errors=True)


def _write_conversions(folder: Path) -> None:
    old = Path(__file__).parents[1] / "tests" / "assets" / "format1"
    shutil.copytree(old / "single", folder / "folder" / "source")
    shutil.copy(old / "recipe.yaml", new_file(folder, "recipe", "source.yaml"))
    shutil.copy(GOLDEN, new_file(folder, "safetensors", "source.safetensors"))
    torch.save({"model_state": model_state(load_file(GOLDEN))}, new_file(folder, "pyth", "source.pyth"))


def _write_features(folder: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 8), dtype=np.float32)
    paths, labels = [f"{number}.mp4" for number in range(6)], [CLASSES[number % 3] for number in range(6)]
    metadata = {"format": 1, "level": "clip", "model_hash": "0" * 16, "clip_spec": to_dict(CLIP)}
    for suffix in ("safetensors", "npy", "parquet"):
        raw, path = new_file(folder, suffix, "raw"), folder / suffix / f"features.{suffix}"
        values.tofile(raw)
        write_features(path, raw, values.shape, metadata | {"paths": paths, "labels": labels})
        raw.unlink(missing_ok=True)


def timeline_videos(seeds: Path) -> list[str]:
    return [str(seeds / "placeholders" / f"video_{number:02d}.mp4") for number in range(2)]


def _write_timeline(folder: Path) -> None:
    write_seeds(folder.parent, "annotations")
    videos = timeline_videos(folder.parent)
    output = open_output(folder / "timeline", TIMELINE_RUN, videos)
    for video in videos:
        with output.new_folder(video) as tmp_path:
            write_json(tmp_path / RESULT, {"video": video, "duration": 2.0, "segments": [], "motion_gate": None})


SEED_WRITERS: dict[str, Callable[[Path], None]] = {
    "video": _write_videos,
    "annotations": _write_annotations,
    "recipe": _write_recipes,
    "checkpoint": _write_checkpoints,
    "export": _write_exports,
    "run": _write_run,
    "convert": _write_conversions,
    "features": _write_features,
    "timeline": _write_timeline,
}


def write_input(seeds: Path, target: str, folder: Path, rng: np.random.Generator) -> str:
    """Copy a random intact case of a target to `folder`, change it, and return its name."""
    cases = sorted(path.name for path in (seeds / target).iterdir())
    case = cases[rng.integers(len(cases))]
    shutil.copytree(seeds / target / case, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    all_files = sorted(path for path in (seeds / target).rglob("*") if path.is_file())
    for _ in range(1 if rng.random() < 0.8 else 2):
        path = files[rng.integers(len(files))]
        alike = [other for other in all_files if other.suffix == path.suffix]
        path.write_bytes(mutate(path.name, path.read_bytes(), alike[rng.integers(len(alike))].read_bytes(), rng))
    return case
