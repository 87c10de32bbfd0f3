"""The same model, a frame at a time: its layers' memory explicit, each frame through the image model once.

    B streams side by side, n new frames, N tokens a frame, D channels, h heads of d channels, T frames of the head

A mixed key or value needs channels of its neighbours alone. So a layer keeps, of the frames that went by, only the
shares that frames to come will read; and where it also reads frames ahead, what its waiting frames have projected.

    causal, w=1                                     centered, w=1: a frame waits for the next one, in each layer

    frame      t-1     t (new)                      frame      t-2     t-1     t (new)
    keys     [share]  [all]                         keys     [share]  [all]   [all]
                 \\____  |                                         \\____ |  ____/
    answer            at t                          answer            at t-1

What comes out at frame t is what the model gives for one clip of all frames from the first on, its temporal head
looking at the last T of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from xvit.models.attention import MixingAttention, SpatialAttention
from xvit.models.backbone import LastBlock
from xvit.utils.errors import XViTError, check_range

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

_PARTS = ("q", "k", "v", "summary_k", "summary_v")

# What a block's attention reads, of the block's input: asked for before the block runs, where frames wait.
_ATTENTION_INPUT: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Block: lambda block, x: block.norm1(x),
    LastBlock: lambda block, x: block.norm1(x),
    EvaBlock: lambda block, x: block.norm1(x),
    ResPostBlock: lambda block, x: x,
    EvaBlockPostNorm: lambda block, x: x,
}


class StreamOutput(NamedTuple):
    """The answers that a push made ready: m of them, of the frames `indices`, counted from 0."""

    indices: list[int]
    frames: Tensor  # (B, m, D), the frames' vectors
    logits: Tensor | dict[str, Tensor]  # (B, m, classes), of the last T frames up to each; a dict for several tasks


class LayerMemory:
    """What one attention layer keeps from push to push. Its tensors are replaced, never changed in place."""

    def __init__(self, attention: SpatialAttention) -> None:
        mixing = attention if isinstance(attention, MixingAttention) and attention.shares else None
        self.shares = mixing.shares if mixing else ()
        self.ahead = max([0, *(share.offset for share in self.shares)])  # frames that an answer waits for
        kinds = {"keys_values": "kv", "keys": "k", "values": "v", "x": "x"}
        self.mixed = kinds[mixing.mixed] if mixing else ""
        self.per_head = bool(mixing and mixing.per_head)
        self.replicate = bool(mixing and mixing.replicate)
        self.summary_frames = attention.summary_frames if attention.summary_tokens else 0
        self.tensors: dict[str, Tensor] = {}

    def see(self, attention: SpatialAttention, x: Tensor, rope: Tensor | None) -> None:
        """Note what the frames of x (B, n, N, D), the attention's input, hold for others and for their own answer."""
        if self.mixed == "x":
            new = {"x": x.unflatten(-1, (attention.num_heads, -1))}
        else:
            new = dict(zip(_PARTS, attention.read(x, rope), strict=True))
        for name, tensor in new.items():
            waiting = self.tensors.get(name)
            self.tensors[name] = tensor if waiting is None else torch.cat([waiting, tensor], dim=1)

    def read(self, attention: SpatialAttention, x: Tensor, rope: Tensor | None) -> tuple[Tensor, ...]:
        """What `SpatialAttention.attend` takes, for the frames of x (B, m, N, D), which wait no longer."""
        if not self.ahead:
            self.see(attention, x, rope)
        frames = x.shape[1]
        ready = {}
        for name in ("x",) if self.mixed == "x" else _PARTS:
            seen = self.tensors.pop(name)
            if name.startswith("summary"):
                ready[name] = self._summaries(name, seen, attention.summary_tokens)
                continue
            ready[name] = self._mix(name, seen, frames) if name in self.mixed else seen[:, :frames]
            if self.ahead:
                self.tensors[name] = seen[:, frames:].clone()
        if self.mixed == "x":
            q, k, v, *summaries = attention.read(ready["x"].flatten(-2), rope)
            names = ("summary_k", "summary_v")
            pairs = zip(names, summaries, strict=True)
            return q, k, v, *(self._summaries(name, new, attention.summary_tokens) for name, new in pairs)
        return tuple(ready[name] for name in _PARTS)

    def _mix(self, name: str, seen: Tensor, frames: int) -> Tensor:
        """The first `frames` frames of seen (B, n, N, h, d), the channels of each share from the frame it reads."""
        channels = seen if self.per_head else seen.flatten(-2)
        parts = []
        for i, share in enumerate(self.shares):
            part = channels[..., share.start : share.stop]
            reach = abs(share.offset)
            edge = part[:, :1] if share.offset < 0 else part[:, -1:]
            outside = (edge if self.replicate else torch.zeros_like(edge)).expand(-1, reach, *edge.shape[2:])
            if share.offset < 0:
                past = self.tensors.get(f"past_{name}{i}", outside)
                joined = torch.cat([past, part[:, :frames]], dim=1)
                self.tensors[f"past_{name}{i}"] = joined[:, frames:].clone()  # a copy, or it would keep all of joined
                parts.append(joined[:, :frames])
            else:
                parts.append(torch.cat([part, outside], dim=1)[:, reach : reach + frames])
        rest = channels[:, :frames, ..., self.shares[-1].stop :]
        return torch.cat([*parts, rest], dim=-1).view(-1, frames, *seen.shape[2:])

    def _summaries(self, name: str, new: Tensor, each: int) -> Tensor:
        """Summary tokens (B, n R, h, d) with those of the T - 1 frames before them."""
        joined = torch.cat([self.tensors.get(f"past_{name}", new[:, :0]), new], dim=1)
        if self.ahead:  # then there are none, and never were
            self.tensors[name] = new
        elif self.summary_frames > 1:
            self.tensors[f"past_{name}"] = joined[:, -(self.summary_frames - 1) * each :].clone()
        return joined


class Stream:
    """A model on endless video, a frame at a time, in constant memory. Made by `XViT.stream`.

    Args:
        model: in eval mode.
        every: answer each frame (1), or each second, third, ... one; the temporal head runs for those alone.

    Attributes:
        latency_frames: how many frames an answer waits for: the frames ahead that its layers read, added up.

    Raises:
        XViTError: a model that cannot be streamed exactly, with what to take instead.
    """

    def __init__(self, model: "XViT", *, every: int = 1) -> None:
        check_range("every", every, 1)
        _check_streamable(model)
        self.model, self.every = model, every
        self.reset()
        for block, memories in zip(model.backbone.blocks, self._memories, strict=True):
            if any(memory.ahead for memory in memories) and type(block) not in _ATTENTION_INPUT:
                raise XViTError(
                    f"a {type(block).__name__} with direction='centered': its frames cannot be made to wait; "
                    "take direction='causal'"
                )
        self.latency_frames = sum(max((memory.ahead for memory in layer), default=0) for layer in self._memories)

    def reset(self) -> None:
        """Forget all frames: the next one is the first of another video."""
        blocks = self.model.backbone.blocks
        self._attentions = [[m for m in block.modules() if isinstance(m, SpatialAttention)] for block in blocks]
        self._memories = [[LayerMemory(attention) for attention in layer] for layer in self._attentions]
        self._waiting: list[Tensor | None] = [None] * len(blocks)  # tokens (B, p, N, D) before each block
        self._ring: Tensor | None = None  # (B, up to T - 1, D), the latest frames' vectors
        self._answered = 0  # frames that came out
        self._shape: tuple[int, ...] | None = None  # of a frame: (B, C, H, W)
        self._ended = False

    @torch.no_grad()
    def push(self, pixel_values: Tensor) -> StreamOutput:
        """Take new frames.

        Args:
            pixel_values: (B, n, C, H, W), normalised as `XViT.clip` says; n >= 1. B and the size stay the same until
                `reset`.

        Returns:
            What became ready: of a causal model the frames just pushed, of a centered one those `latency_frames`
            before them.

        Raises:
            XViTError: a wrong shape, or one other than before; a stream that was flushed.
        """
        if self._ended:
            raise XViTError("push after flush: the video has ended; reset() begins another")
        shape = (pixel_values.shape[0], *pixel_values.shape[2:])
        if self._shape not in (None, shape):
            raise XViTError(f"frames of shape {shape} (B, C, H, W), before them {self._shape}: reset() first")
        x, rope = self.model.embed(pixel_values)
        self._shape = shape
        return self._run(x, rope, ended=False)

    @torch.no_grad()
    def flush(self) -> StreamOutput:
        """End the video: the answers of the frames that still waited for others."""
        if self._shape is None:
            raise XViTError("flush before any push: there is no frame to answer")
        batch, *size = self._shape
        _, rope = self.model.embed(next(self.model.parameters()).new_zeros(batch, 1, *size))  # for its rotary positions
        self._ended = True
        return self._run(None, rope, ended=True)

    def copy(self) -> "Stream":
        """Another stream that goes on from here by itself."""
        other = Stream(self.model, every=self.every)
        other.load_state(self.state())
        return other

    def state(self) -> dict[str, Tensor]:
        """All that is remembered, as tensors by name: to be saved (safetensors takes it), or loaded elsewhere."""
        numbers = [self._answered, int(self._ended), *(self._shape or ())]
        named = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        return named | {"numbers": torch.tensor(numbers)}

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered of the frames, by name; B is the first dimension of each."""
        named = {f"waiting.{layer}": tensor for layer, tensor in enumerate(self._waiting) if tensor is not None}
        for layer, memories in enumerate(self._memories):
            for place, memory in enumerate(memories):
                named |= {f"layer.{layer}.{place}.{name}": tensor for name, tensor in memory.tensors.items()}
        if self._ring is not None:
            named["ring"] = self._ring
        return named

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of the same model.

        Raises:
            XViTError: a state of another kind of model.
        """
        self.reset()
        try:
            answered, ended, *shape = state["numbers"].tolist()
            self.load_tensors(state)
        except (KeyError, IndexError, ValueError) as error:
            raise XViTError(f"not a state of a stream of this model ({type(error).__name__}: {error})") from None
        self._answered, self._ended, self._shape = answered, bool(ended), tuple(shape) or None

    def load_tensors(self, named: Mapping[str, Tensor]) -> None:
        """Remember what `tensors` gave, in a stream that was just made or reset."""
        for name, tensor in named.items():
            kind, _, rest = name.partition(".")
            if kind == "waiting":
                self._waiting[int(rest)] = tensor
            elif kind == "layer":
                layer, place, inner = rest.split(".")
                self._memories[int(layer)][int(place)].tensors[inner] = tensor
        self._ring = named.get("ring")

    @property
    def layer_bytes(self) -> list[int]:
        """Bytes that each layer remembers now, with the tokens waiting before it."""
        sizes = []
        for waiting, memories in zip(self._waiting, self._memories, strict=True):
            tensors = [tensor for memory in memories for tensor in memory.tensors.values()]
            tensors += [] if waiting is None else [waiting]
            sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return sizes

    def _run(self, x: Tensor | None, rope: Tensor | None, *, ended: bool) -> StreamOutput:
        """New tokens (B, n, N, D), if any, through the layers and the head."""
        with self._remembering():
            for layer, block in enumerate(self.model.backbone.blocks):
                x = self._layer(layer, block, x, rope, ended=ended)
                if x is None and not ended:
                    break
        return self._answer(None if x is None else self.model.pool(x)[1])

    def _layer(self, layer: int, block: Any, x: Tensor | None, rope: Tensor | None, *, ended: bool) -> Tensor | None:
        """One block over the frames that wait no longer; None for no frame."""
        places = self.model.places(layer, rope, class_token_only=self.model.class_token_only)
        memories = self._memories[layer]
        ahead = max((memory.ahead for memory in memories), default=0)
        if ahead:
            if x is not None:
                seen = _ATTENTION_INPUT[type(block)](block, x)
                for attention, memory in zip(self._attentions[layer], memories, strict=True):
                    memory.see(attention, seen, places.get("rope"))
            tokens = [tensor for tensor in (self._waiting[layer], x) if tensor is not None]
            if not tokens:
                return None
            x = torch.cat(tokens, dim=1)
            ready = x.shape[1] if ended else max(x.shape[1] - ahead, 0)
            self._waiting[layer] = x[:, ready:].clone() if ready < x.shape[1] else None
            x = x[:, :ready]
        return block(x, **places) if x is not None and x.shape[1] else None

    def _answer(self, new: Tensor | None) -> StreamOutput:
        """Run the temporal head for the frames whose vectors (B, m, D) came out."""
        model = self.model
        if new is None:
            assert self._shape is not None
            new = next(model.parameters()).new_zeros(self._shape[0], 0, model.backbone.num_features)
        vectors = new if self._ring is None else torch.cat([self._ring, new], dim=1)
        past, first, window = vectors.shape[1] - new.shape[1], self._answered, model.config.num_frames
        places = [place for place in range(new.shape[1]) if (first + place + 1) % self.every == 0]
        clips = [vectors[:, max(past + place + 1 - window, 0) : past + place + 1] for place in places]
        if window > 1:
            self._ring = vectors[:, -(window - 1) :].clone()
        self._answered += new.shape[1]
        if clips and all(clip.shape[1] == window for clip in clips):  # all at once, when the ring is full
            clip_vectors = model.temporal_head(torch.stack(clips, dim=1).flatten(0, 1)).unflatten(0, (-1, len(clips)))
        elif clips:
            clip_vectors = torch.stack([model.temporal_head(clip) for clip in clips], dim=1)
        else:
            clip_vectors = new[:, :0]
        logits = model.classifier(clip_vectors)  # (B, m, classes)
        return StreamOutput([first + place for place in places], new[:, places], logits)

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """The attention layers read through this stream's memory."""
        pairs = [
            (attention, memory)
            for attentions, memories in zip(self._attentions, self._memories, strict=True)
            for attention, memory in zip(attentions, memories, strict=True)
        ]
        try:
            for attention, memory in pairs:
                attention.memory = memory
            yield
        finally:
            for attention, _ in pairs:
                attention.memory = None


def _check_streamable(model: "XViT") -> None:
    config = model.config
    if model.training:
        raise XViTError("the model is in training mode: call eval() first")
    if config.attention not in ("mixing", "spatial"):
        raise XViTError(
            f"attention={config.attention!r}: its frames read whole other frames, which a stream does not keep; "
            "take attention='mixing'"
        )
    if config.temporal_position == "input":
        raise XViTError(
            "temporal_position='input': a frame's place in the clip enters before the first layer, and changes as the "
            "window moves on; take temporal_position='head' or 'none'"
        )
    if config.tubelet > 1 or config.merge_tokens:
        raise XViTError(
            f"tubelet={config.tubelet}, merge_tokens={config.merge_tokens}: a stream takes frames one by one, and "
            "tokens merge by all frames of a clip; take tubelet=1, merge_tokens=0"
        )
    if config.segment_frames:
        raise XViTError(
            f"segment_frames={config.segment_frames}: mixing stops at the clip's segments, which an endless video does "
            "not have; take segment_frames=0"
        )
    if config.summary_tokens and config.direction != "causal":
        raise XViTError(
            f"summary_tokens={config.summary_tokens} with direction='centered': all frames see the summaries of all "
            "frames to come; take direction='causal'"
        )
