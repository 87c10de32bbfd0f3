"""Metrics in a file for TensorBoard, written at once: the thread of torch's SummaryWriter hides a full disk."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from xvit.utils.files import write_errors


class TensorBoardWriter:
    """Writes scalars to a new event file in `directory`, which appears with the first one.

    Args:
        directory: the folder of the event files of all parts of a run.
        first_step: TensorBoard forgets the values of earlier files from this step on.
    """

    def __init__(self, directory: Path, *, first_step: int) -> None:
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path, self.first_step = directory / name, first_step

    def add_scalars(self, values: dict[str, float], step: int) -> None:
        """Write the values of one step.

        Raises:
            WriteError: the disk is full, and the like.
        """
        events: list[Any] = []
        if not self.path.exists():
            events.append(Event(file_version="brain.Event:2", step=self.first_step))
            events.append(Event(session_log=SessionLog(status=SessionLog.START), step=self.first_step))
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        events.append(Event(summary=Summary(value=scalars), step=step))
        with write_errors(self.path):
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("ab") as file:
                for event in events:
                    event.wall_time = time.time()
                    RecordWriter(file).write(event.SerializeToString())
