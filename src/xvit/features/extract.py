"""Features of videos, written to a file as they come, so that neither memory nor a stop matters.

What an extraction has done so far lies beside its output, in the folder `.NAME.partial`:

    run.json        what is extracted: model, clip, level, videos; what is left of another run is not mixed with it
    values          the rows, float32, one after the other; a bad video has none
    journal.jsonl   a line a batch, written once its rows are safe: what is behind the last whole line did not happen
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from xvit.config import to_dict
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.transforms import normalize
from xvit.features.storage import FORMAT, LEVELS, Level, check_format, check_names, sidecars, write
from xvit.models.profiling import model_hash
from xvit.models.token_merging import patches_after_merging
from xvit.models.xvit import XViT
from xvit.utils.errors import VideoError, XViTError, check_choice, check_range

_RUN, _VALUES, _JOURNAL, _LOCK = "run.json", "values", "journal.jsonl", "lock"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What `extract` wrote.

    Args:
        output: the file.
        shape: of its values.
        failures: the videos that could not be read; they have no row.
    """

    output: Path
    shape: tuple[int, ...]
    failures: tuple[VideoError, ...]


def extract(
    model: XViT,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    level: Level = "clip",
    labels: Sequence[str | None] | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    resume: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """Write the features of videos, one view each, to a file. A bad video gets no row, and does not stop the others.

    An extraction that was stopped, in whatever way, goes on when it is called again. Its values are then, to the last
    bit, those of one that was not stopped (on the same device, with the same number of threads).

    Args:
        model: on its device; it is put in eval mode.
        paths: the videos.
        output: .safetensors (a tensor "features"), .npy (paths and labels in NAME.json beside it) or .parquet (columns
            path, label, features); not there yet.
        level: clip (one vector a video), frames (one a frame) or tokens (all tokens of each frame).
        labels: classes of the videos; None where not known.
        batch_size: videos at a time.
        workers: loader processes; 0 decodes in this one.
        resume: go on with what a stopped extraction left; else start again.
        on_progress: called with the number of videos done and of all videos.

    Raises:
        XViTError: an output that `check_output` refuses, no videos or not one that can be read, names that the format
            cannot hold, what is left of another extraction: of another model, clip, level, list of videos or batch
            size.
    """
    output = check_output(output)
    check_choice("level", level, LEVELS)
    names = [os.fspath(path) for path in paths]
    classes = [None] * len(names) if labels is None else list(labels)
    if len(classes) != len(names):
        raise XViTError(f"{len(classes)} labels for {len(names)} videos: expected one each")
    samples = [Sample(path=name, label=None, id=name) for name in names]
    dataset = VideoDataset(samples=samples, clip_spec=model.clip_spec)
    check_range("batch_size", batch_size, 1)
    about: dict[str, Any] = {"format": FORMAT, "level": level}
    about |= {"model": model_hash(model.eval()), "clip": to_dict(model.clip_spec)}
    row, device = _row_shape(model, level), next(model.parameters()).device
    check_names(output, (len(names), *row), about | {"paths": names, "labels": classes})
    # The batch size too: how many videos go through the model at once decides on the last bits.
    run = about | {"videos": f"{len(names)}, hash {_hash(json.dumps([names, classes]))}", "batch_size": batch_size}
    with _opened(_folder(output), run, 4 * math.prod(row), resume=resume) as partial:
        first = partial.done
        _tell(on_progress, first, len(names))
        dataset.samples = samples[first:]
        for batch in make_loader(dataset, batch_size=batch_size, num_workers=num_workers) if first < len(names) else ():
            rows = b""
            if len(batch["indices"]):
                pixels = batch["pixels"].flatten(0, 1).contiguous()  # (B, 1, T, C, S, S) -> (B, T, C, S, S)
                with torch.inference_mode():
                    values = getattr(model.forward_features(normalize(pixels, model.clip_spec, device)), level)
                assert values.shape == (len(pixels), *row), values.shape
                rows = values.float().cpu().numpy().astype("<f4", copy=False).tobytes()
            bad = {first + index: error.reason for index, error in batch["errors"].items()}
            partial.add(rows, done=min(partial.done + batch_size, len(names)), failed=bad)
            _tell(on_progress, partial.done, len(names))
        kept = [index for index in range(len(names)) if index not in partial.failed]
        about |= {"paths": [names[index] for index in kept], "labels": [classes[index] for index in kept]}
        if kept:
            _finish(output, (len(kept), *row), about)
    shutil.rmtree(_folder(output))
    failures = tuple(VideoError(names[index], reason) for index, reason in partial.failed.items())
    if not kept:
        raise XViTError(f"none of {len(names)} videos could be read; the first: {failures[0]}")
    return Extraction(output=output, shape=(len(kept), *row), failures=failures)


def check_output(output: str | Path) -> Path:
    """The path of a file of features that is to be written.

    Raises:
        XViTError: an unknown format, a file that exists, a library that is missing.
    """
    output = Path(output)
    check_format(output)
    beside = [] if _folder(output).exists() else sidecars(output)  # a stopped extraction may have got as far as there
    for path in (output, *beside):
        if path.exists():
            raise XViTError(f"{path}: exists; choose another output, or remove it")
    return output


class _Partial:
    """What an extraction has done so far; see the head of this file.

    Args:
        done: videos done, the bad ones included.
        failed: reasons of the bad ones, by their places in the list.
        values: where rows go.
        journal: where batches are noted.
    """

    def __init__(self, done: int, failed: dict[int, str], values: IO[bytes], journal: IO[bytes]) -> None:
        self.done, self.failed = done, failed
        self._values, self._journal = values, journal

    def add(self, rows: bytes, *, done: int, failed: dict[int, str]) -> None:
        """Keep the rows of a batch."""
        _append(self._values, rows)
        _append(self._journal, json.dumps({"done": done, "failed": failed}).encode() + b"\n")
        self.done = done
        self.failed |= dict(sorted(failed.items()))


@contextmanager
def _opened(folder: Path, run: dict[str, Any], row_bytes: int, *, resume: bool) -> Iterator[_Partial]:
    """The work so far in `folder`, which is made; what comes after the last whole batch is cut off.

    Raises:
        XViTError: the work is damaged or that of another run, or another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _JOURNAL
    with open(folder / _LOCK, "wb") as lock, open(folder / _VALUES, "ab") as values, open(path, "ab") as journal:
        _take(lock, folder)
        text = path.read_bytes() if resume else b""
        whole = text[: text.rfind(b"\n") + 1]
        done, failed = 0, dict[int, str]()
        if whole:
            try:
                before = json.loads((folder / _RUN).read_text(encoding="utf-8"))
                for line in map(json.loads, whole.splitlines()):
                    done = int(line["done"])
                    failed |= {int(index): str(reason) for index, reason in line["failed"].items()}
                wrong = next((key for key in run if before[key] != run[key]), None)
            except (ValueError, KeyError, TypeError, AttributeError, OSError):
                raise XViTError(f"{folder}: damaged; remove it to start again") from None
            if wrong:
                raise XViTError(
                    f"{folder}: an unfinished extraction of which {wrong} was {before[wrong]}, now {run[wrong]}; give "
                    "the same again, choose another output, or remove that folder"
                )
        else:
            (folder / _RUN).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        size = row_bytes * (done - len(failed))
        if values.tell() < size:
            raise XViTError(f"{folder}: damaged, values are missing; remove it to start again")
        values.truncate(size)
        journal.truncate(len(whole))
        yield _Partial(done, failed, values, journal)


def _finish(output: Path, shape: tuple[int, ...], about: dict[str, Any]) -> None:
    """Write the output from the rows: whole in the folder first, then moved to its place, sidecar first."""
    beside = _folder(output) / output.name
    write(beside, _folder(output) / _VALUES, shape, about)
    if output.exists():
        raise XViTError(f"{output}: was made by something else meanwhile; remove it and run the same again")
    for made, place in zip([*sidecars(beside), beside], [*sidecars(output), output], strict=True):
        made.replace(place)


def _take(lock: IO[bytes], folder: Path) -> None:
    """Keep other processes out, until this one closes the file or dies."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which workers that outlive us would hold on to
    except OSError:
        raise XViTError(f"{folder}: another process is at this extraction") from None


def _append(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _row_shape(model: XViT, level: Level) -> tuple[int, ...]:
    """(D,), (T, D) or (T, P, D)."""
    backbone, T, size = (
        model.backbone,
        model.clip_spec.num_frames // model.config.tubelet_size,
        model.clip_spec.image_size,
    )
    patches = math.prod(backbone.patch_embed.dynamic_feat_size((size, size)))
    tokens = patches_after_merging(patches, model.config.tome_r, len(backbone.blocks) - 1) + backbone.num_prefix_tokens
    return {"clip": (), "frames": (T,), "tokens": (T, tokens)}[level] + (backbone.num_features,)


def _folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tell(on_progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(done, total)
