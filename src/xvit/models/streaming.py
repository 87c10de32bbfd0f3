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
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from xvit.config import as_task_dict, to_dict, unwrap_single_task
from xvit.models.attention import AttentionInputs, SpatialAttention
from xvit.models.backbone import ClassTokenBlock
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_range, one_line

# The input of a block's attention, from the block's input: a centered model projects frames when they arrive. When the
# block later runs on them, its attention takes these projections, and uses its own input for a gate only.
_ATTENTION_INPUT: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Block: lambda block, x: block.norm1(x),
    ClassTokenBlock: lambda block, x: block.norm1(x),
    EvaBlock: lambda block, x: block.norm1(x),
    ResPostBlock: lambda block, x: x,
    EvaBlockPostNorm: lambda block, x: x,
}


class StreamOutput(NamedTuple):
    """The p predictions that a push completed."""

    indices: list[int]  # of their frames, counted from 0
    frames: Tensor  # (B, p, D), the frames' vectors
    logits: Tensor | dict[str, Tensor]  # (B, p, classes), from the T frames up to each; a dict for several tasks


class StreamReader:
    """The inputs of one attention layer in a stream, and what the layer keeps between pushes.

    Attributes:
        tensors: the kept tensors by name; replaced, never changed in place. `pending_*` are the inputs of frames that
            still wait for later ones, `past_*` what later frames need of earlier ones.
    """

    def __init__(self, layer: SpatialAttention) -> None:
        self.lookahead = layer.pattern.lookahead  # frames that an output waits for
        self.tensors: dict[str, Tensor] = {}

    def append(self, layer: SpatialAttention, x: Tensor, rope: Tensor | None) -> None:
        """Add the inputs of new frames x (B, n, N, D) to those of the pending frames."""
        if layer.pattern.mixes_tokens:
            new = {"x": x.unflatten(-1, (layer.num_heads, -1))}
        else:
            new = layer.project(x, rope)._asdict()
        for name, tensor in new.items():
            if not tensor.shape[1]:  # no summary tokens
                continue
            pending = self.tensors.get(f"pending_{name}")
            self.tensors[f"pending_{name}"] = tensor if pending is None else torch.cat([pending, tensor], dim=1)

    def read(self, layer: SpatialAttention, x: Tensor, rope: Tensor | None) -> AttentionInputs:
        """The inputs of the frames x (B, m, N, D), the oldest pending ones, whose later frames have arrived."""
        if not self.lookahead:
            self.append(layer, x, rope)
        pattern, m = layer.pattern, x.shape[1]
        if pattern.mixes_tokens:
            inputs = layer.project(self._take(layer, "x", m, mixed=True).flatten(-2), rope)
        else:
            q = self._take(layer, "q", m)
            k = self._take(layer, "k", m, mixed=pattern.mixes_keys)
            v = self._take(layer, "v", m, mixed=pattern.mixes_values)
            # All of them at once: a model with summaries is causal, so its frames are never pending.
            summaries = [self.tensors.pop(f"pending_summary_{kind}", q[:, :0, 0]) for kind in "kv"]  # (B, m R, h, d)
            inputs = AttentionInputs(q, k, v, *summaries)
        return inputs._replace(
            summary_k=self._with_past(layer, "summary_k", inputs.summary_k),
            summary_v=self._with_past(layer, "summary_v", inputs.summary_v),
        )

    def _take(self, layer: SpatialAttention, name: str, m: int, *, mixed: bool = False) -> Tensor:
        """The first m of the pending frames (B, n, N, h, d), mixed or as they are; the others stay pending."""
        pending = self.tensors.pop(f"pending_{name}")
        if self.lookahead:
            self.tensors[f"pending_{name}"] = pending[:, m:].clone()
        if not mixed:
            return pending[:, :m]
        slices = range(len(layer.pattern.slices))
        history = {i: self.tensors[f"past_{name}{i}"] for i in slices if f"past_{name}{i}" in self.tensors}
        out = layer.pattern.mix(pending, num_frames=m, history=history)
        self.tensors |= {f"past_{name}{i}": past for i, past in history.items()}
        return out

    def _with_past(self, layer: SpatialAttention, name: str, new: Tensor) -> Tensor:
        """Summary tokens (B, m R, h, d), preceded by those of the earlier frames that the new ones attend to."""
        if not layer.summary_tokens:
            return new
        summaries = torch.cat([self.tensors.get(f"past_{name}", new[:, :0]), new], dim=1)
        if layer.summary_window > 1:
            self.tensors[f"past_{name}"] = summaries[:, -(layer.summary_window - 1) * layer.summary_tokens :].clone()
        return summaries


class _StreamBlock:
    """A block of the model whose attention layers read from a stream, and its pending tokens.

    The block and its attention layers are shallow copies, which share their weights with the model. So a stream
    changes nothing in the model, and several streams can run at the same time.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = _copy_with_readers(block)
        self.layers = [layer for layer in self.block.modules() if isinstance(layer, SpatialAttention)]
        self.readers = [cast(StreamReader, layer.reader) for layer in self.layers]
        self.lookahead = max(reader.lookahead for reader in self.readers)
        self.pending: Tensor | None = None  # tokens (B, n, N, D)
        if self.lookahead and type(block) not in _ATTENTION_INPUT:
            raise XViTError(
                f"centered mixing in a {type(block).__name__} cannot be streamed: use a model with causal=True"
            )

    def run(self, x: Tensor | None, kwargs: dict[str, Any], *, ended: bool) -> Tensor | None:
        """Add new tokens x (B, n, N, D), and run the block on the frames whose later frames have arrived, if any."""
        if self.lookahead:
            x = self._take_ready(x, kwargs.get("rope"), ended=ended)
        return self.block(x, **kwargs) if x is not None and x.shape[1] else None

    def _take_ready(self, x: Tensor | None, rope: Tensor | None, *, ended: bool) -> Tensor | None:
        if x is not None:
            attention_input = _ATTENTION_INPUT[type(self.block)](self.block, x)
            for layer, reader in zip(self.layers, self.readers, strict=True):
                reader.append(layer, attention_input, rope)
        tokens = [tensor for tensor in (self.pending, x) if tensor is not None]
        if not tokens:
            return None
        x = torch.cat(tokens, dim=1)
        ready = x.shape[1] if ended else max(x.shape[1] - self.lookahead, 0)
        self.pending = x[:, ready:].clone()
        return x[:, :ready]


class Stream:
    """A model on endless video, frame by frame, in constant memory. The model itself is not changed.

    Args:
        model: in eval mode.
        predict_every: predict at each frame (1), or at every second, third, ... one. The temporal head runs at those
            frames only.

    Attributes:
        latency_frames: how many frames a prediction waits for: the lookahead of all layers, added up.

    Raises:
        XViTError: a model that cannot be streamed exactly; the message names an alternative.
    """

    def __init__(self, model: XViT, *, predict_every: int = 1) -> None:
        check_range("predict_every", predict_every, 1)
        _check_streamable(model)
        self.model, self.predict_every = model, predict_every
        self.reset()
        self.latency_frames = sum(block.lookahead for block in self._blocks)

    def reset(self) -> None:
        """Forget all frames: the next one is the first of another video."""
        self._blocks = [_StreamBlock(block) for block in self.model.backbone.blocks]
        self._frames: Tensor | None = None  # (B, up to T - 1, D), the vectors of the last frames
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
        x, rope = self.model.embed(pixel_values)  # which checks them
        shape = (pixel_values.shape[0], *pixel_values.shape[2:])
        if self._shape not in (None, shape):
            raise XViTError(f"frames of shape {shape} (B, C, H, W) after {self._shape}: call reset() first")
        for layer, original in zip(self._layers, self.model.attention_layers, strict=True):
            layer.grid = original.grid  # which embed() has set
        self._shape = shape
        return self._predict(self._run_blocks(x, rope))

    @torch.no_grad()
    def flush(self) -> StreamOutput:
        """End the video, and return the predictions of the frames that were still waiting for later ones.

        Raises:
            XViTError: nothing was pushed.
        """
        if self._shape is None:
            raise XViTError("flush() before any push(): there are no frames")
        batch, *size = self._shape
        _, rope = self.model.embed(next(self.model.parameters()).new_zeros(batch, 1, *size))  # for its rotary positions
        self._ended = True
        return self._predict(self._run_blocks(None, rope))

    def copy(self) -> "Stream":
        """An independent stream that continues from here."""
        other = Stream(self.model, predict_every=self.predict_every)
        other.load_state(self.state())
        return other

    def state(self) -> dict[str, Tensor]:
        """Everything that is kept, for `load_state`: `tensors`, counters, and a hash of the model's settings."""
        counters = torch.tensor([self._num_completed, int(self._ended), *(self._shape or ())])
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        return tensors | {"counters": counters, "config": _config_hash(self.model)}

    def tensors(self) -> dict[str, Tensor]:
        """What is kept of the frames, by name; B is the first dimension of each tensor."""
        named: dict[str, Tensor] = {}
        for index, block in enumerate(self._blocks):
            if block.pending is not None:
                named[f"blocks.{index}.pending"] = block.pending
            for layer, reader in enumerate(block.readers):
                named |= {f"blocks.{index}.{layer}.{name}": tensor for name, tensor in reader.tensors.items()}
        if self._frames is not None:
            named["frames"] = self._frames
        return named

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
        self._num_completed, self._ended, self._shape = completed, bool(ended), tuple(shape) or None

    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """Load what `tensors` returned into a stream without frames."""
        for name, tensor in named.items():
            kind, _, rest = name.partition(".")
            if kind != "blocks":
                continue
            index, *place = rest.split(".")
            if place == ["pending"]:
                self._blocks[int(index)].pending = tensor
            else:
                layer, inner = place
                self._blocks[int(index)].readers[int(layer)].tensors[inner] = tensor
        self._frames = named.get("frames")

    @property
    def _layers(self) -> list[SpatialAttention]:
        return [layer for block in self._blocks for layer in block.layers]

    @property
    def block_bytes(self) -> list[int]:
        """Bytes that each block keeps now."""
        sizes = []
        for block in self._blocks:
            tensors = [tensor for reader in block.readers for tensor in reader.tensors.values()]
            tensors += [] if block.pending is None else [block.pending]
            sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return sizes

    def _run_blocks(self, x: Tensor | None, rope: Tensor | None) -> Tensor | None:
        """The vectors (B, m, D) of the frames that new tokens (B, n, N, D) complete; None if there are none."""
        for index, block in enumerate(self._blocks):
            kwargs = self.model.block_kwargs(index, rope, class_token_only=self.model.class_token_only)
            x = block.run(x, kwargs, ended=self._ended)
            if x is None and not self._ended:  # at the end, later blocks still have pending frames
                break
        return None if x is None else self.model.pool(x)[1]

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
        if windows and all(window.shape[1] == T for window in windows):  # after the first T - 1 frames, all at once
            embeddings = model.temporal_head(torch.stack(windows, dim=1).flatten(0, 1)).unflatten(0, (-1, len(chosen)))
        elif windows:
            embeddings = torch.stack([model.temporal_head(window) for window in windows], dim=1)
        else:
            embeddings = new[:, :0]
        logits = unwrap_single_task(as_task_dict(model.classifier(embeddings)))  # (B, p, classes)
        return StreamOutput([first + i for i in chosen], new[:, chosen], logits)


def _config_hash(model: XViT) -> Tensor:
    settings = json.dumps(to_dict(model.config), sort_keys=True).encode()
    return torch.tensor(list(hashlib.sha256(settings).digest()), dtype=torch.uint8)


def _copy_with_readers(module: nn.Module) -> nn.Module:
    """A copy that shares its tensors and hooks with `module`, its attention layers with stream readers of their own."""
    clone = copy.copy(module)
    if isinstance(clone, SpatialAttention):
        clone.reader = StreamReader(clone)
        return clone
    if any(isinstance(inner, SpatialAttention) for inner in module.modules()):
        clone._modules = {
            name: inner if inner is None else _copy_with_readers(inner) for name, inner in module._modules.items()
        }
    return clone


def _check_streamable(model: XViT) -> None:
    config = model.config
    if model.training:
        raise XViTError("the model is in training mode: call eval() first")
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
