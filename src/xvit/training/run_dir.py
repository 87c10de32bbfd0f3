"""The output folder of a training: what it holds, who may write there, where a stopped run goes on.

config.yaml          the recipe, as given
metrics.jsonl        a row every few steps, and a row a validation
bad_videos.jsonl     the videos that could not be read, each once
tensorboard/         the same numbers for TensorBoard
best/ last/          checkpoints: `XViT.from_pretrained`
state/step_0000120/  all that is needed to go on after 120 steps; the newest two are kept
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from xvit.config import RunConfig, from_dict, read_yaml, to_dict
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import atomic_directory, atomic_write_text

_logger = logging.getLogger("xvit")
_ANY = {
    "data.num_workers",
    "train.save_minutes",
}  # settings that may differ on resuming: they change nothing in the result


@dataclass
class TrainState:
    """Where a run stands, after a step.

    Args:
        epoch: epochs done, with their validation.
        step: steps done, those of the current epoch included.
        processes: that share the steps: other numbers make other steps.
        seconds: wall time spent.
        best_epoch: of the best validation; 0 before the first.
        best: its metrics.
    """

    epoch: int = 0
    step: int = 0
    processes: int = field(default_factory=distributed.world_size)
    seconds: float = 0.0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)


class RunDirectory:
    """The output folder, opened for a new run or to go on with one.

    Args:
        path: the folder.
        config: the recipe.
        resume: go on with the run that is there, if there is one.

    Raises:
        XViTError: a folder in use without `resume`, one that holds something else, a recipe that is not the run's.
    """

    def __init__(self, path: str | Path, config: RunConfig, *, resume: bool) -> None:
        self.path = Path(path)
        self.best, self.last, self._states = self.path / "best", self.path / "last", self.path / "state"
        self._config = self.path / "config.yaml"
        self._bad: set[str] = set()
        told = ""
        if distributed.is_main():
            try:
                self._open(config, resume=resume)
            except (XViTError, OSError) as error:
                told = str(error)
        told = distributed.all_gather(told)[0]
        if told:
            raise XViTError(told)

    def _open(self, config: RunConfig, *, resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise XViTError(f"{self.path}: a file; expected a folder for the run, or a new name")
        if self.path.exists() and any(self.path.iterdir()):
            self._check_same_run(config, resume=resume)
        else:
            if resume:
                _logger.info("%s: nothing to go on with, so a new run begins", self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self._config, yaml.safe_dump(to_dict(config), sort_keys=False))
        for unfinished in self._states.glob(".step_*"):  # by a process that was killed
            shutil.rmtree(unfinished)
        self._bad = {row["path"] for row in _keep_rows(self.path / "bad_videos.jsonl")}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def note_bad(self, error: VideoError) -> None:
        """Add a video to bad_videos.jsonl, unless it is there."""
        if error.path not in self._bad:
            self._bad.add(error.path)
            if distributed.is_main():
                with (self.path / "bad_videos.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"path": error.path, "reason": error.reason}) + "\n")

    @property
    def bad_videos(self) -> int:
        """How many different videos could not be read so far."""
        return len(self._bad)

    def save_state(self, accelerator: Accelerator, averaged: nn.Module, position: TrainState) -> None:
        """Keep all that is needed to go on from here, then drop what was kept before.

        Args:
            accelerator: holds the model, the optimiser, the random state.
            averaged: the model that is saved as best and last, another one than the trained or the same.
            position: where the run stands.
        """
        with ExitStack() as stack:
            beside = Path()
            if distributed.is_main():
                beside = stack.enter_context(atomic_directory(self._states / f"step_{position.step:07d}"))
            beside = distributed.all_gather(beside)[0]
            accelerator.save_state(str(beside))  # each process writes its random state
            if distributed.is_main():
                # not through accelerate, which would read it back as a pickle
                save_file(averaged.state_dict(), beside / "averaged.safetensors")
                (beside / "position.json").write_text(json.dumps(asdict(position)), encoding="utf-8")
            distributed.barrier()
        if distributed.is_main():
            for older in self._kept()[:-2]:
                shutil.rmtree(older)

    def load_state(self, accelerator: Accelerator, averaged: nn.Module) -> TrainState:
        """Restore the newest state that is whole, if any, and drop the rows that were written after it.

        Raises:
            XViTError: all of them are damaged.
        """
        position, damage = TrainState(), ""
        for state in reversed(self._kept()):
            position, damage = TrainState(), ""
            try:
                position = TrainState(**json.loads((state / "position.json").read_text(encoding="utf-8")))
                accelerator.load_state(str(state), load_kwargs={"weights_only": True})
                averaged.load_state_dict(load_file(state / "averaged.safetensors"))
            except Exception as error:  # a damaged file can fail anywhere in three libraries
                damage = f"{state}: damaged ({' '.join(str(error).split())[:200]})"
            if position.processes != distributed.world_size():
                raise XViTError(
                    f"{self.path}: a run of {position.processes} processes cannot go on in {distributed.world_size()}: "
                    "take as many, or another --output"
                )
            damage = max(distributed.all_gather(damage))
            if not damage:
                break
            _logger.warning("%s: going on from the one before", damage)
        if damage:
            raise XViTError(f"{damage}, and so is each before: this run cannot go on: take another --output")
        if distributed.is_main():
            _keep_rows(self.path / "metrics.jsonl", up_to=position.step)
        return position

    @property
    def has_state(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self._kept())

    def _kept(self) -> list[Path]:
        """The states that are there, oldest first; not those half written, whose names begin with a dot."""
        return sorted(self._states.glob("step_*"))

    def _check_same_run(self, config: RunConfig, *, resume: bool) -> None:
        if not self._config.is_file():
            raise XViTError(f"{self.path}: holds other things than a training run: take another --output")
        if not resume:
            raise XViTError(f"{self.path}: holds a training run: go on with it by --resume, or take another --output")
        before = _flat(to_dict(from_dict(RunConfig, read_yaml(self._config), self._config)))
        now = _flat(to_dict(config))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and key not in _ANY:
                raise XViTError(
                    f"{self.path}: cannot go on with another recipe: {key} was {before.get(key)!r}, is now "
                    f"{now.get(key)!r}: take the same, or start another run from it: --output OTHER "
                    f"--init.checkpoint_path {self.last}"
                )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _keep_rows(path: Path, up_to: float = math.inf) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, those of later steps and one that a killed process left unfinished cut off."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    rows = [row for row in whole if row.get("step", 0) <= up_to]
    atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows
