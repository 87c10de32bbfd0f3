"""Several streams of one model in one batch: their states are joined, pushed and split again.

    stream 0   state (1, ...) ─┐                        ┌─ state (1, ...)   outputs of its frames
    stream 1   state (1, ...) ─┼▶ (B, ...) ─▶ push ─────┼─ ...
    stream 2   state (1, ...) ─┘                        └─ ...

The outputs are those of each stream by itself, up to the rounding of larger matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xvit.config import as_task_dict, unwrap_single_task
from xvit.models.streaming import Stream, StreamOutput
from xvit.models.xvit import XViT


@dataclass
class StreamState:
    """What is kept of one stream between pushes.

    Args:
        tensors: as `Stream.tensors` returns them, with B = 1; empty before the first frame.
        num_completed: frames that passed through all layers.
        size: (C, H, W) of its frames; empty before the first one.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    num_completed: int = 0
    size: tuple[int, ...] = ()


class StreamBatch:
    """Pushes frames of many streams of one model. The streams are `StreamState` objects, which it changes.

    Args:
        model: as for `Stream`.

    Raises:
        XViTError: a model that cannot be streamed exactly.
    """

    def __init__(self, model: XViT) -> None:
        self._stream = Stream(model, skip_repeats=False)
        self.latency_frames = self._stream.latency_frames

    def push(self, states: Sequence[StreamState], frames: Sequence[Tensor]) -> list[StreamOutput]:
        """Add new frames to streams, of which none is given twice.

        Args:
            states: the streams.
            frames: (1, n, C, H, W) of each, as for `Stream.push`; n may differ.

        Returns:
            The outputs of each stream, as `Stream.push` returns them.
        """
        groups: dict[object, list[int]] = {}
        for index, (state, new) in enumerate(zip(states, frames, strict=True)):
            shapes = tuple(sorted((name, tensor.shape) for name, tensor in state.tensors.items()))
            groups.setdefault((shapes, new.shape), []).append(index)
        outputs: dict[int, StreamOutput] = {}
        for indices in groups.values():
            output = self._push([states[index] for index in indices], torch.cat([frames[index] for index in indices]))
            outputs |= zip(indices, output, strict=True)
        return [outputs[index] for index in range(len(states))]

    def flush(self, state: StreamState) -> StreamOutput:
        """End a stream: the outputs of the frames that were still waiting for later ones, as `Stream.flush`.

        Raises:
            XViTError: nothing was pushed.
        """
        stream = Stream(self._stream.model, skip_repeats=False)
        counters = torch.tensor([0, 0, *([1, *state.size] if state.size else [])])
        stream.load_state(stream.state() | state.tensors | {"counters": counters})
        return self._split([state], stream, stream.flush())[0]

    def _push(self, states: Sequence[StreamState], frames: Tensor) -> list[StreamOutput]:
        """Push frames (B, n, C, H, W) of streams whose states have the same shapes."""
        stream = self._stream
        stream.reset()
        names = states[0].tensors
        stream.load_tensors({name: torch.cat([state.tensors[name] for state in states]) for name in names})
        for state in states:
            state.size = tuple(frames.shape[2:])
        return self._split(states, stream, stream.push(frames))

    @staticmethod
    def _split(states: Sequence[StreamState], stream: Stream, output: StreamOutput) -> list[StreamOutput]:
        """Keep the state of each stream, and return its outputs."""
        kept, results = stream.tensors(), []
        logits = as_task_dict(output.logits)
        for row, state in enumerate(states):
            # Clones, because a slice would keep the whole batch in memory.
            state.tensors = {name: tensor[row : row + 1].clone() for name, tensor in kept.items()}
            own = {task: x[row : row + 1] for task, x in logits.items()}
            indices = [state.num_completed + index for index in output.indices]
            results.append(StreamOutput(indices, output.frames[row : row + 1], unwrap_single_task(own)))
            state.num_completed += len(indices)
        return results
