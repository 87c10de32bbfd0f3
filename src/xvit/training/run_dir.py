"""The run folder: its files, and the states from which a stopped run is resumed.

config.yaml          the recipe as given
metrics.jsonl        one row every few steps, and one per validation
bad_videos.jsonl     the videos that could not be read, each once
tensorboard/         the same metrics for TensorBoard
best/ last/          checkpoints, for `XViT.from_pretrained`
state/step_0000120/  everything needed to resume after step 120; the newest two states are kept
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from xvit.config import RunConfig, from_dict, read_yaml, to_dict
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError, one_line
from xvit.utils.files import atomic_directory, atomic_write_text, holds_something

_logger = logging.getLogger("xvit")
_MAY_CHANGE = {"data.num_workers", "train.save_minutes"}  # settings that do not influence the result
METRICS, BAD_VIDEOS = "metrics.jsonl", "bad_videos.jsonl"
_EMA_MODEL, _TRAIN_STATE = "ema_model.safetensors", "train_state.json"


@dataclass
class TrainState:
    """What a run has done so far."""

    epoch: int = 0  # finished epochs, including their validation
    step: int = 0  # finished steps, including those of the current epoch
    world_size: int = field(default_factory=distributed.world_size)  # a step's clips depend on it
    seconds: float = 0.0  # wall time spent
    best_epoch: int = 0  # epoch of the best validation, counted from 1; 0 before the first
    best_metrics: dict[str, float] = field(default_factory=dict)  # its metrics


class RunDirectory:
    """The run folder `path`, opened for a new run of the recipe `config` or, with `resume`, for the run that is in it.

    Raises:
        XViTError: the folder contains a run and `resume` is false, or other files; the run has a different recipe.
    """

    def __init__(self, path: str | Path, config: RunConfig, *, resume: bool) -> None:
        self.path = Path(path)
        self.best, self.last, self._state_dir = self.path / "best", self.path / "last", self.path / "state"
        self._config_path = self.path / "config.yaml"
        self.bad_videos: set[str] = set()  # the paths in BAD_VIDEOS
        message = ""
        if distributed.is_main():
            try:
                self._open(config, resume=resume)
            except (XViTError, OSError) as error:
                message = str(error)
        if message := distributed.all_gather(message)[0]:
            raise XViTError(message)

    def _open(self, config: RunConfig, *, resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise XViTError(f"{self.path}: is a file; expected a folder for the run, or a new path")
        if holds_something(self.path):
            self._check_same_run(config, resume=resume)
        else:
            if resume:
                _logger.info("%s: no run to resume; starting a new one", self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self._config_path, yaml.safe_dump(to_dict(config), sort_keys=False))
        for unfinished in self._state_dir.glob(".step_*"):  # left by a process that was killed
            shutil.rmtree(unfinished)
        self.bad_videos = {row["path"] for row in _truncate_rows(self.path / BAD_VIDEOS)}

    def _check_same_run(self, config: RunConfig, *, resume: bool) -> None:
        if not self._config_path.is_file():
            raise XViTError(f"{self.path}: contains files, but no training run; choose another --output")
        if not resume:
            advice = "continue it with --resume, or choose another --output"
            raise XViTError(f"{self.path}: contains a training run; {advice}")
        before = _flatten(to_dict(from_dict(RunConfig, read_yaml(self._config_path), self._config_path)))
        now = _flatten(to_dict(config))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and key not in _MAY_CHANGE:
                raise XViTError(
                    f"{self.path}: cannot be resumed with a different recipe: {key} was {before.get(key)!r} and is now "
                    f"{now.get(key)!r}; use the same value, or start a new run from these weights: --output OTHER "
                    f"--init.checkpoint_path {self.last}"
                )

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a row to METRICS or BAD_VIDEOS, in the main process."""
        if distributed.is_main():
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def add_bad_video(self, error: VideoError) -> None:
        """Add a video to BAD_VIDEOS, unless it is there already."""
        if error.path not in self.bad_videos:
            self.bad_videos.add(error.path)
            self.append(BAD_VIDEOS, {"path": error.path, "reason": error.reason})

    def save_state(self, accelerator: Accelerator, ema_model: nn.Module | None, state: TrainState) -> None:
        """Save everything needed to resume, then delete all states but the newest two."""
        directory = self._state_dir / f"step_{state.step:07d}"
        with atomic_directory(directory) if distributed.is_main() else nullcontext(directory) as tmp_path:
            tmp_path = distributed.all_gather(tmp_path)[0]
            accelerator.save_state(str(tmp_path))  # each process writes its own random state
            if distributed.is_main():
                if ema_model is not None:  # not through accelerate, which would load it as a pickle
                    save_file(ema_model.state_dict(), tmp_path / _EMA_MODEL)
                (tmp_path / _TRAIN_STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            distributed.barrier()
        if distributed.is_main():
            for older in self.saved_states()[:-2]:
                shutil.rmtree(older)

    def load_state(self, accelerator: Accelerator, ema_model: nn.Module | None) -> TrainState:
        """Restore the newest state that is not corrupt and delete later metric rows. If none was saved, a new state.

        Raises:
            XViTError: all saved states are corrupt; the run had another number of processes.
        """
        state, message = TrainState(), ""
        for path in reversed(self.saved_states()):
            state, message = TrainState(), ""
            try:
                state = TrainState(**json.loads((path / _TRAIN_STATE).read_text(encoding="utf-8")))
                accelerator.load_state(str(path), load_kwargs={"weights_only": True})
                if ema_model is not None:
                    ema_model.load_state_dict(load_file(path / _EMA_MODEL))
            except Exception as error:  # three libraries read these files, and each fails in its own ways
                message = f"{path}: corrupt ({one_line(error)})"
            if state.world_size != distributed.world_size():
                before, now = state.world_size, distributed.world_size()
                message = f"a run with {before} processes cannot be resumed with {now}"
                raise XViTError(f"{self.path}: {message}; use {before}, or choose another --output")
            message = max(distributed.all_gather(message))
            if not message:
                break
            _logger.warning("%s; trying the state before it", message)
        if message:
            advice = "all saved states are corrupt, so the run cannot be resumed: choose another --output"
            raise XViTError(f"{message}; {advice}")
        if distributed.is_main():
            _truncate_rows(self.path / METRICS, last_step=state.step)
        return state

    def saved_states(self) -> list[Path]:
        """The complete states, oldest first. The names of incomplete ones begin with a dot."""
        return sorted(self._state_dir.glob("step_*"))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _truncate_rows(path: Path, last_step: float = math.inf) -> list[dict[str, Any]]:
    """Delete the rows of later steps from a JSON-lines file, and a last row without its end. Returns the other rows."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [json.loads(line) for line in lines if line.endswith("\n")]
    rows = [row for row in complete if row.get("step", 0) <= last_step]
    atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows
