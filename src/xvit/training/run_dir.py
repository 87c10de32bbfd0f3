"""The run folder: its files, and the states from which a stopped run is resumed.

config.yaml          the recipe as given
data.json            the videos and classes that the run is trained on, the library versions, the device
metrics.jsonl        one row every few steps, and one per validation
bad_videos.jsonl     the videos that were skipped because they could not be read, and those that were used although
                     something is wrong with them, each once
tensorboard/         the same metrics for TensorBoard
best/ last/          checkpoints, for `XViT.from_pretrained`
state/step_0000120/  everything needed to resume after step 120; the newest two states are kept
"""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from xvit.checkpoint.weights import tensor_shapes
from xvit.config import ClipSpec, RunConfig, describe_change, from_dict, read_yaml, stored_recipe, to_dict
from xvit.data.annotations import DatasetSplits
from xvit.data.record import compare_splits, compare_versions, record_hash, record_splits, record_versions
from xvit.training.hosts import MARKER, explain_other_data, explain_separate_folders
from xvit.training.rows import BAD_VIDEOS, METRICS, read_rows, truncate_rows
from xvit.training.state import TrainState, check_random_state, read_train_state
from xvit.training.state_tensors import MODEL, StateTensors
from xvit.utils import distributed
from xvit.utils.devices import default_device
from xvit.utils.errors import WriteError, XViTError, is_out_of_memory, one_line
from xvit.utils.files import (
    LOCK,
    atomic_directory,
    atomic_write_text,
    holds_something,
    previous_version,
    read_json,
    sync,
    write_errors,
)
from xvit.utils.locks import lock_directory
from xvit.utils.text import MAX_RECORD_BYTES

_logger = logging.getLogger("xvit")
_MAY_CHANGE = {"data.num_workers", "train.save_minutes"}  # settings that do not influence the result
_DATA, _VERSIONS, _CLIP_SPEC = "data.json", "versions", "clip_spec"
_TRAIN_STATE = "train_state.json"


class RunDirectory:
    """The run folder `path`, opened for a new run or, with `resume`, for the run that is in it.

    It is locked until `close`, so that no other process writes into it. A new folder appears with the first row or
    state, after the first step: nothing is left of a run that could not start. Nothing is changed in the folder of a
    run that cannot be resumed.

    Everything on which the result depends has to be the same when a run is resumed: the recipe, the classes, and the
    training and validation videos (`xvit.data.record` says what is compared); `load_state` compares the number of
    processes. Other library versions or another device change the last digits of a result, and are logged. The initial
    weights are read only as long as no state is saved, so they may be gone.

    Args:
        path: the run folder.
        config: the recipe.
        data: what the run is trained on.
        resume: continue the run that is in the folder.

    Attributes:
        clip_spec: that of the run which is resumed, in the main process; None for a new run.

    Raises:
        XViTError: the folder contains a run and `resume` is false, or other files; the run has a different recipe, or
            is trained on other data; another process uses the folder; the hosts of the run have different folders or
            different data under these paths.
    """

    def __init__(self, path: str | Path, config: RunConfig, data: DatasetSplits, *, resume: bool) -> None:
        self.path, self._config = Path(path), config
        self.best, self.last, self._state_dir = self.path / "best", self.path / "last", self.path / "state"
        self._config_path, self._data_path = self.path / "config.yaml", self.path / _DATA
        self._record: dict[str, Any] = {}  # of the data, in the main process
        self.clip_spec: ClipSpec | None = None
        self.bad_videos: dict[str, set[str]] = {"skipped": set(), "used": set()}  # the paths in BAD_VIDEOS
        self._settings: dict[Path, str] = {}  # files that are written with the first row or state, in the main process
        self._lock = ExitStack()
        message, self._data_hash = "", ""
        if distributed.is_main():
            try:
                self._lock.enter_context(lock_directory(path, "xvit train"))
                self._record = record_splits(data)
                self._data_hash = record_hash({name: self._record[name] for name in ("class_names", "train", "val")})
                self._open(resume=resume)
            except (XViTError, OSError) as error:
                message = str(error)
        message, self._data_hash = distributed.all_gather((message, self._data_hash))[0]
        message = message or explain_separate_folders(self.path) or explain_other_data(data, config.data.root)
        if message:
            self.close()
            raise XViTError(message)

    @property
    def is_written(self) -> bool:
        """Whether the folder holds a run."""
        return self._config_path.is_file()

    def close(self) -> None:
        """Let other processes use the folder."""
        self._lock.close()

    def _open(self, *, resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise XViTError(f"{self.path}: is a file; expected a folder for the run, or a new path")
        self._remove_unfinished_start()
        if holds_something(self.path):
            self._check_same_run(resume=resume)
        elif resume:
            _logger.info("%s: no run to resume; starting a new one", self.path)
        read_rows(self.path / METRICS)  # damage is reported before the training
        for row in read_rows(self.path / BAD_VIDEOS):
            self.bad_videos[row.get("outcome", "skipped")].add(row["path"])

    def _remove_unfinished_start(self) -> None:
        """Remove what is there if the process was killed in `open`, before the recipe, which is written last.

        A data.json of another program is kept: the folder is then refused.
        """
        unfinished = {f".{self._data_path.name}", f".{self._config_path.name}"}
        names = {path.name for path in self.path.iterdir()} - {LOCK} if self.path.is_dir() else set()
        unfinished |= {name for name in names if name.startswith(MARKER)}
        if self._data_path.name in names and _is_record(self._data_path):
            unfinished.add(self._data_path.name)
        if names <= unfinished:
            for name in names:
                (self.path / name).unlink()

    def _check_same_run(self, *, resume: bool) -> None:
        if not self._config_path.is_file():
            raise XViTError(f"{self.path}: contains files, but no training run; choose another --output")
        if not resume:
            advice = "continue it with --resume, or choose another --output"
            raise XViTError(f"{self.path}: contains a training run; {advice}")
        self._check_recipe()
        self._check_data()

    def _check_recipe(self) -> None:
        recipe = stored_recipe(read_yaml(self._config_path), self._config_path)
        if change := describe_change(to_dict(recipe), to_dict(self._config), _MAY_CHANGE):
            raise XViTError(
                f"{self.path}: cannot be resumed with a different recipe: {change}; use the same value, or "
                f"{self._new_run_advice()}"
            )

    def _check_data(self) -> None:
        if not self._data_path.is_file():
            return  # `load_state` compares the hash
        before = read_json(self._data_path, max_bytes=MAX_RECORD_BYTES)
        try:
            changes = compare_splits(before, self._record, ("train", "val"))
            test_changes = compare_splits(before, self._record, ("test",))
            versions = compare_versions(before[_VERSIONS], record_versions(default_device()))
            self.clip_spec = from_dict(ClipSpec, before[_CLIP_SPEC], self._data_path)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            reason = one_line(error, name=True)
            raise XViTError(f"{self._data_path}: damaged ({reason}); {self._new_run_advice()}") from None
        if changes:
            raise XViTError(
                f"{self.path}: the data changed since the run was started: {changes}; undo these changes, or "
                f"{self._new_run_advice()}"
            )
        if test_changes:
            _logger.warning("%s: the data changed, but not what is trained on: %s", self.path, test_changes)
        if versions:
            _logger.warning("%s: was started with %s: the last digits of its result may differ", self.path, versions)

    def _new_run_advice(self) -> str:
        if self.last.is_dir():
            return f"start a new run from these weights: --output OTHER --init.checkpoint_path {self.last}"
        return "start a new run: --output OTHER"

    def prepare(self, clip_spec: ClipSpec) -> None:
        """Prepare the recipe and the record of the data for a new folder. `clip_spec` is complete."""
        if distributed.is_main():
            record = {_VERSIONS: record_versions(default_device()), _CLIP_SPEC: to_dict(clip_spec)} | self._record
            files = {
                self._data_path: json.dumps(record) + "\n",
                self._config_path: yaml.safe_dump(to_dict(self._config), sort_keys=False),
            }
            self._settings = {path: text for path, text in files.items() if not path.exists()}

    def open(self) -> None:
        """Create the folder, if it is new, before something is written to it.

        Raises:
            WriteError: it cannot be written, or was removed while the run was on.
        """
        if not distributed.is_main():
            return
        with write_errors(self.path):
            if self._settings:
                self.path.mkdir(parents=True, exist_ok=True)
            for path, text in list(self._settings.items()):
                atomic_write_text(path, text)
                del self._settings[path]
        if not self._config_path.is_file():
            raise WriteError(f"{self.path}: was removed, or lost its {self._config_path.name}, while the run was on")

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a row to METRICS or BAD_VIDEOS, in the main process."""
        if distributed.is_main():
            self.open()
            with write_errors(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def add_bad_video(self, path: str, reason: str, outcome: Literal["skipped", "used"]) -> None:
        """Add a video to BAD_VIDEOS, unless it is there already with this outcome."""
        if path not in self.bad_videos[outcome]:
            self.bad_videos[outcome].add(path)
            self.append(BAD_VIDEOS, {"path": path, "reason": reason, "outcome": outcome})

    def save_state(self, tensors: StateTensors, state: TrainState) -> None:
        """Save everything needed to resume, then delete all states but the newest two."""
        directory = self._state_dir / f"step_{state.step:07d}"
        self.open()
        if distributed.is_main():
            for name in (METRICS, BAD_VIDEOS):  # the rows before a state are on the disk before it
                if (self.path / name).exists():
                    sync(self.path / name)
        with atomic_directory(directory) if distributed.is_main() else nullcontext(directory) as tmp_path:
            tmp_path = distributed.all_gather(tmp_path)[0]
            tensors.save(tmp_path)
            if distributed.is_main():
                (tmp_path / _TRAIN_STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
            distributed.barrier()
        if distributed.is_main():
            for older in self.saved_states()[:-2]:
                shutil.rmtree(older)

    def load_state(self, tensors: StateTensors) -> TrainState:
        """Restore the newest state that is not corrupt and delete later metric rows. If none was saved, a new state.

        Raises:
            XViTError: all saved states are corrupt; the run had another number of processes, other data, or a model of
                other shapes.
        """
        state, message = TrainState(), ""
        for path in reversed(self.saved_states()):
            state, message = self._load_one(path, tensors)
            message = max(distributed.all_gather(message))
            if not message:
                break
            _logger.warning("%s; trying the state before it", message)
        if message:
            advice = "all saved states are corrupt, so the run cannot be resumed: choose another --output"
            raise XViTError(f"{message}; {advice}")
        state.data_hash = self._data_hash
        if distributed.is_main():
            for unfinished in self._state_dir.glob(".step_*"):  # left by a process that was killed
                shutil.rmtree(unfinished)
            self._restore_checkpoints(state)
            truncate_rows(self.path / METRICS, last_step=state.step)
            truncate_rows(self.path / BAD_VIDEOS)
        return state

    def _restore_checkpoints(self, state: TrainState) -> None:
        """Rename the checkpoints that a killed process left under another name. Says if the best one is missing."""
        for directory in (self.best, self.last):
            if not directory.exists() and previous_version(directory).exists():
                previous_version(directory).rename(directory)
        if state.best_epoch and not self.best.exists():
            _logger.warning(
                "%s: the checkpoint of epoch %d is missing; later ones are saved", self.best, state.best_epoch
            )
            state.best_epoch, state.best_metrics = 0, {}

    def _load_one(self, path: Path, tensors: StateTensors) -> tuple[TrainState, str]:
        """The state in a folder, or what is corrupt in it. What the state does not fit is found before it is loaded."""
        try:
            state = read_train_state(path / _TRAIN_STATE)
            shapes = tensor_shapes(path / MODEL)
            check_random_state(path)
        except Exception as error:  # three libraries read these files, and each fails in its own ways
            if is_out_of_memory(error):
                raise
            return TrainState(), f"{path}: corrupt ({one_line(error)})"
        self._check_state(path, state, shapes, tensors.model)
        try:
            tensors.load(path)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return TrainState(), f"{path}: corrupt or of other library versions ({one_line(error)})"
        return state, ""

    def _check_state(
        self, path: Path, state: TrainState, shapes: Mapping[str, tuple[int, ...]], model: nn.Module
    ) -> None:
        if state.world_size != distributed.world_size():
            before, now = state.world_size, distributed.world_size()
            message = f"a run with {before} processes cannot be resumed with {now}"
            raise XViTError(f"{self.path}: {message}; use {before}, or choose another --output")
        if state.data_hash and state.data_hash != self._data_hash:
            raise XViTError(
                f"{self.path}: its saved state {path.name} was trained on other data than this, and its {_DATA} "
                f"does not say what changed; {self._new_run_advice()}"
            )
        if not state.data_hash and distributed.is_main():
            _logger.warning("%s: of an earlier version: whether its data has changed is not known", self.path)
        # The names in a state are those of a model that may be wrapped.
        saved = {name.replace("_orig_mod.", "").removeprefix("module."): shape for name, shape in shapes.items()}
        for name, tensor in model.state_dict().items():
            if saved.get(name) != tuple(tensor.shape):
                shape = f"{saved[name]} in it" if name in saved else "not in it"
                raise XViTError(
                    f"{path}: is of another model: {name} is {shape} and {tuple(tensor.shape)} in this model; use the "
                    f"classes and the xvit of its run, or {self._new_run_advice()}"
                )

    def saved_states(self) -> list[Path]:
        """The complete states, oldest first. The names of incomplete ones begin with a dot."""
        return sorted(self._state_dir.glob("step_*"))


def _is_record(path: Path) -> bool:
    """Whether a file is the record of a run's data, which is written whole or not at all."""
    try:
        values = read_json(path)
    except XViTError:
        return False
    return isinstance(values, dict) and {_VERSIONS, _CLIP_SPEC} <= values.keys()
