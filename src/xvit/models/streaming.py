r"""A model on endless video, frame by frame: exact, in constant memory, each frame through the image model once.

    B parallel streams, n new or pending frames, m frames whose turn it is, N tokens per frame, D channels, h heads of
    d channels, T frames that the temporal head looks at

A mixed key or value needs only some channels of its neighbours. So each layer keeps, of past frames, the slices that
later frames will read. A centered model also reads ahead: in each layer, frames are pending until the later ones have
arrived, and the layer keeps their projections.

    causal, w=1                                     centered, w=1: in each layer a frame is pending until the next

    frame      t-1     t (new)                      frame      t-2     t-1     t (new)
    keys     [slice]  [all]                         keys     [slice]  [all]   [all]
                 \____  |                                         \____ |  ____/
    output            at t                          output            at t-1

A frame's vector equals the one that the model computes in a single clip of the whole video. The prediction at frame t
is that of the temporal head on the vectors of the frames t - T + 1 .. t.

A still picture costs nothing, exactly. A block is a function (input, state) -> (output, next state). If a push left its
state as it was, bit for bit, and the next one has the same input, it would return the same output and leave the same
state again: it is settled, and does not run. So while the frames of each push are those of the push before, blocks
settle from the first to the last. All that has to be kept for this is the input of the first one that is not settled.

    push of one frame      1  2  3  4  5  6       # runs   . settled
    picture             Z  A  A  A  A  A  A       causal, w=1. Block i, from 0 on, is settled from the equal frame
    block 0             #  #  #  .  .  .  .       w (i + 1) + 2 on, without any mixing from frame 2 on, and all L blocks
    block 1             #  #  #  #  .  .  .       from w L + 2 on. The temporal head repeats from w L + T + 1 on, when
    block 2             #  #  #  #  #  .  .       the vectors of its T frames are those of the T frames before.

This does not depend on the kind of mixing, because states are compared.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xvit.config import ModelConfig, as_task_dict, to_dict, unwrap_single_task
from xvit.models.attention import SpatialAttention
from xvit.models.stream_blocks import StreamBlock
from xvit.models.stream_patches import ChangedPatches
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range, one_line


class StreamOutput(NamedTuple):
    """The p predictions that a push completed.

    Args:
        indices: of their frames, counted from 0.
        frames: (B, p, D), the frames' vectors.
        logits: (B, p, classes), from the T frames up to each; a dict for several tasks.
    """

    indices: list[int]
    frames: Tensor
    logits: Tensor | dict[str, Tensor]


class Stream:
    """A model on endless video, frame by frame, in constant memory. The model itself is not changed.

    Args:
        model: in eval mode.
        predict_every: predict at each frame (1), or at every second, third, ... one. The temporal head runs at those
            frames only.
        skip_repeats: do not compute what repeats while the frames of a push are those of the push before, in all B
            streams. The outputs are those of the same pushes without skipping, bit for bit. The weights may change only
            before a `reset`. False is for measurements, and for programs that are traced.
        unchanged_threshold: compute only the tokens of patches whose mean absolute difference, in the units of
            `pixel_values`, is above this since they were last computed (`ChangedPatches`): an approximation, for causal
            mixing. 0 carries identical patches forward, None (the default) none.

    Attributes:
        latency_frames: how many frames a prediction waits for: the lookahead of all layers, added up.
        patches: what chooses the patches; None without `unchanged_threshold`.
        num_reused: frames since the last `reset` for which no block ran, because they repeat those before.

    Raises:
        XViTError: a model that cannot be streamed exactly; the message names an alternative.
    """

    def __init__(
        self,
        model: XViT,
        *,
        predict_every: int = 1,
        skip_repeats: bool = True,
        unchanged_threshold: float | None = None,
    ) -> None:
        check_range("predict_every", predict_every, 1)
        if model.training:
            raise XViTError("the model is in training mode: call eval() first")
        check_streamable(model.config)
        self.model, self.predict_every, self.skip_repeats = model, predict_every, skip_repeats
        self.patches = None if unchanged_threshold is None else ChangedPatches(model, unchanged_threshold)
        self.reset()
        self.latency_frames = sum(block.lookahead for block in self._blocks)

    def reset(self) -> None:
        """Forget all frames: the next one is the first of another video."""
        self._blocks = [StreamBlock(block) for block in self.model.backbone.blocks]
        self._frames: Tensor | None = None  # (B, up to T - 1, D), the vectors of the last frames
        self._tokens: Tensor | None = None  # (B, 1, N, D), the last block's output for all patches, changed or not
        if self.patches is not None:
            self.patches.pixels = None
        # Not part of the state: what saves computing again what repeats.
        self._last_input: Tensor | None = None  # the frames of the last push; with `patches` the tokens' indices
        self._settled: tuple[int, Tensor | None] = (0, None)  # how many blocks are settled, and the next one's input
        self._rope: Tensor | None = None
        self._windows: list[Tensor] = []  # (B, up to T, D) each, of the last predictions
        self._logits: dict[str, Tensor] = {}  # and their results
        self.num_reused = 0
        self._num_completed = 0  # frames that passed through all layers
        self._shape: tuple[int, ...] | None = None  # of a frame: (B, C, H, W)
        self._ended = False

    @torch.no_grad()
    def push(self, pixel_values: Tensor) -> StreamOutput:
        """Add new frames.

        Args:
            pixel_values: (B, n, C, H, W), n >= 1, normalised as `XViT.clip_spec` says. B and the size may not change
                before `reset`.

        Returns:
            The predictions that became possible: of a causal model those of the new frames, of a centered one those of
            the frames `latency_frames` before them.

        Raises:
            XViTError: a wrong or changed shape, a wrong type; a push after `flush`.
        """
        if self._ended:
            raise XViTError("push() after flush(): the video has ended; call reset() before the next one")
        self.model.check_input(pixel_values)
        shape = (pixel_values.shape[0], *pixel_values.shape[2:])
        if self._shape not in (None, shape):
            raise XViTError(f"frames of shape {shape} (B, C, H, W) after {self._shape}: call reset() first")
        self._shape = shape
        if self.patches is None:
            return self._predict(self._advance(pixel_values))
        # One by one, because they differ in the tokens to compute.
        vectors = [self._advance(frame) for frame in pixel_values.split(1, dim=1)]
        return self._predict(torch.cat([vector for vector in vectors if vector is not None], dim=1))

    @torch.no_grad()
    def flush(self) -> StreamOutput:
        """End the video, and return the predictions of the frames that were still waiting for later ones.

        Raises:
            XViTError: nothing was pushed.
        """
        if self._shape is None:
            raise XViTError("flush() before any push(): there are no frames")
        batch, *size = self._shape
        _, self._rope = self.model.embed(next(self.model.parameters()).new_zeros(batch, 1, *size))
        self._ended, self._settled = True, (0, None)
        return self._predict(self._run_blocks())

    def copy(self) -> "Stream":
        """An independent stream that continues from here."""
        other = Stream(
            self.model,
            predict_every=self.predict_every,
            skip_repeats=self.skip_repeats,
            unchanged_threshold=None if self.patches is None else self.patches.threshold,
        )
        other.load_state(self.state())
        return other

    def state(self) -> dict[str, Tensor]:
        """Everything that is kept, for `load_state`: `tensors`, counters, and a hash of the model's settings."""
        counters = torch.tensor([self._num_completed, int(self._ended), *(self._shape or ())])
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        return tensors | {"counters": counters, "config": _config_hash(self.model)}

    def tensors(self) -> dict[str, Tensor]:
        """What is kept of the frames, by name; B is the first dimension of each tensor."""
        named = {
            f"blocks.{index}.{name}": tensor
            for index, block in enumerate(self._blocks)
            for name, tensor in block.tensors().items()
        }
        pixels = None if self.patches is None else self.patches.pixels
        others = {"frames": self._frames, "tokens": self._tokens, "pixels": pixels}
        return named | {name: tensor for name, tensor in others.items() if tensor is not None}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state` of the same model.

        Raises:
            XViTError: not a state, or one of a model with other settings.
        """
        self.reset()
        if "config" not in state or not torch.equal(state["config"].cpu(), _config_hash(self.model)):
            raise XViTError("not a stream state of this model: its settings differ, or it is no state at all")
        try:
            completed, ended, *shape = state["counters"].tolist()
            self.load_tensors(state)
        except (KeyError, IndexError, ValueError) as error:
            raise XViTError(f"not a stream state of this model: damaged ({one_line(error, name=True)})") from None
        if shape and ("pixels" in state) != (self.patches is not None):
            with_or_without = "with" if "pixels" in state else "without"
            raise XViTError(f"a state of a stream {with_or_without} unchanged_threshold: load it into such a stream")
        self._num_completed, self._ended, self._shape = completed, bool(ended), tuple(shape) or None

    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned, by name, into a stream without frames."""
        for name, tensor in named.items():
            if name.startswith("blocks."):
                _, index, inner = name.split(".", 2)
                self._blocks[int(index)].load(inner, tensor)
        self._frames, self._tokens = named.get("frames"), named.get("tokens")
        if self.patches is not None:
            self.patches.pixels = named.get("pixels")

    @property
    def _layers(self) -> list[SpatialAttention]:
        return [layer for block in self._blocks for layer in block.layers]

    @property
    def block_bytes(self) -> list[int]:
        """Bytes that each block keeps now."""
        kept = [block.tensors().values() for block in self._blocks]
        return [sum(tensor.numel() * tensor.element_size() for tensor in tensors) for tensors in kept]

    def _advance(self, frames: Tensor) -> Tensor | None:
        """The vectors (B, m, D) of the frames that new ones (B, n, C, H, W) complete; None if there are none."""
        tokens = None if self.patches is None else self.patches.select(frames)
        if not (self.skip_repeats and self._repeats(frames, tokens)):
            x, rope = self.model.embed(frames)
            if tokens is not None:
                num_prefix = self.model.backbone.num_prefix_tokens
                x, rope = x[:, :, tokens], rope if rope is None else rope[..., tokens[num_prefix:] - num_prefix, :]
            for layer, original in zip(self._layers, self.model.attention_layers, strict=True):
                layer.grid = original.grid  # which embed() has set
            for reader in [reader for block in self._blocks for reader in block.readers]:
                reader.tokens = tokens
            self._settled, self._rope = (0, x), rope
            # A copy, because a caller may write its next frames into the same tensor.
            self._last_input = frames.clone() if tokens is None else tokens
        return self._run_blocks()

    def _repeats(self, frames: Tensor, tokens: Tensor | None) -> bool:
        """Whether the blocks would get the input of the last push again."""
        last = self._last_input
        if last is None:
            return False
        if tokens is not None:  # the prefix tokens only, which are the same in each frame
            return len(tokens) == len(last) == self.model.backbone.num_prefix_tokens
        return frames.dtype == last.dtype and frames.device == last.device and torch.equal(frames, last)

    def _run_blocks(self) -> Tensor | None:
        """Run the blocks that are not settled, and return the vectors (B, m, D) of the frames that they complete."""
        first, x = self._settled
        settled = self.skip_repeats  # all blocks so far
        for index, block in enumerate(self._blocks[first:], start=first):
            kwargs = self.model.block_kwargs(index, self._rope, class_token_only=self.model.class_token_only)
            before = block.tensors()
            x = block.run(x, kwargs, ended=self._ended)
            if x is None and not self._ended:  # at the end, later blocks still have pending frames
                return None
            settled = settled and _equal_states(before, block.tensors())
            if settled:
                self._settled = index + 1, x
        if x is None:
            return None
        if first > len(self._blocks):  # the vectors themselves
            self.num_reused += x.shape[1]
            return x
        vectors = self._pool(x)
        if settled:
            self._settled = len(self._blocks) + 1, vectors
        return vectors

    def _pool(self, x: Tensor) -> Tensor:
        """The vectors (B, m, D) of the last block's output x (B, m, N or 1, D); of some tokens only with `patches`."""
        if self.patches is not None and not self.model.class_token_only:
            assert self._last_input is not None
            x = self._tokens = x if self._tokens is None else self._tokens.index_copy(2, self._last_input, x)
        return self.model.pool(x)[1]

    def _predict(self, new: Tensor | None) -> StreamOutput:
        """Run the temporal head and classifier at the new frames' vectors (B, m, D)."""
        model, T, first = self.model, self.model.config.num_frames, self._num_completed
        if new is None:
            assert self._shape is not None
            new = next(model.parameters()).new_zeros(self._shape[0], 0, model.backbone.num_features)
        vectors = new if self._frames is None else torch.cat([self._frames, new], dim=1)
        num_past = vectors.shape[1] - new.shape[1]
        chosen = [i for i in range(new.shape[1]) if (first + i + 1) % self.predict_every == 0]  # of the new frames
        windows = [vectors[:, max(num_past + i + 1 - T, 0) : num_past + i + 1] for i in chosen]
        if T > 1:
            self._frames = vectors[:, -(T - 1) :].clone()
        self._num_completed += new.shape[1]
        repeats = self.skip_repeats and bool(windows) and _equal(windows, self._windows)
        logits = self._logits if repeats else self._classify(windows, new)
        if windows:
            self._windows, self._logits = windows, logits
        logits = {task: x.clone() for task, x in logits.items()}  # a caller may change them
        return StreamOutput([first + i for i in chosen], new[:, chosen], unwrap_single_task(logits))

    def _classify(self, windows: list[Tensor], new: Tensor) -> dict[str, Tensor]:
        """Logits (B, p, classes) of each task for p windows of frame vectors (B, up to T, D)."""
        model = self.model
        if windows and all(window.shape[1] == model.config.num_frames for window in windows):  # at once
            embeddings = model.temporal_head(torch.stack(windows, dim=1).flatten(0, 1)).unflatten(0, (-1, len(windows)))
        elif windows:  # the first T - 1 frames
            embeddings = torch.stack([model.temporal_head(window) for window in windows], dim=1)
        else:
            embeddings = new[:, :0]
        return as_task_dict(model.classifier(embeddings))


def _equal(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether all of them are equal, bit for bit."""
    return len(tensors) == len(others) and all(map(torch.equal, tensors, others))


def _equal_states(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def _config_hash(model: XViT) -> Tensor:
    settings = json.dumps(to_dict(model.config), sort_keys=True).encode()
    return torch.tensor(list(hashlib.sha256(settings).digest()), dtype=torch.uint8)


def check_streamable(config: ModelConfig) -> None:
    """Raise `XViTError` if a model cannot be streamed exactly; the message names an alternative."""
    if config.attention not in ("mixing", "spatial"):
        raise XViTError(
            f"attention={config.attention!r} cannot be streamed: it reads whole other frames, which a stream does not "
            "keep; use attention='mixing'"
        )
    if config.temporal_position == "input":
        raise XViTError(
            "temporal_position='input' cannot be streamed: a frame's position in the clip enters before the first "
            "layer and changes as the window moves on; use temporal_position='head' or 'none'"
        )
    if config.tubelet_size > 1 or config.tome_r:
        raise XViTError(
            f"tubelet_size={config.tubelet_size}, tome_r={config.tome_r} cannot be streamed: a stream takes single "
            "frames, and token merging needs all frames of a clip; use tubelet_size=1 and tome_r=0"
        )
    if config.advanced.segment_frames:
        raise XViTError(
            f"segment_frames={config.advanced.segment_frames} cannot be streamed: an endless video has no segments; "
            "use segment_frames=0"
        )
    if config.summary_tokens and not config.causal:
        raise XViTError(
            f"summary_tokens={config.summary_tokens} without causal=True cannot be streamed: each frame would attend "
            "to the summaries of all later ones; use causal=True"
        )
