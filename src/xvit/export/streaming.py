"""The program of one step of a stream: a frame and the state -> the logits and the next state, all of fixed shapes.

B clips, T frames, N tokens per frame, h heads of d channels, D channels

    state                             shape           holds
    blocks.BLOCK.LAYER.past_kSLICE    (B, w, N, ...)  a slice of the keys of the last frames (v: values, x: tokens)
    frames                            (B, T - 1, D)   the vectors of the last frames
    frame_mask                        (B, T)          1 where the window of T frames holds one, else 0

It starts as zeros, which is zero padding before the first frame. With `frame_mask`, the temporal head looks at the
frames so far only, as that of a `Stream` does.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from timm.layers import Attention
from torch import Tensor, nn

from xvit.config import as_task_dict
from xvit.export.manifest import FRAME_MASK
from xvit.models.attention import AttentionInputs, SpatialAttention
from xvit.models.streaming import Stream
from xvit.models.temporal import TemporalAttention, resize_positions
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError

_MASKED = -3e4  # below all scores, in float16 as well


class StreamingProgram(nn.Module):
    """One step of a stream: a frame (B, 1, C, H, W) and the state -> the logits per task and the next state."""

    def __init__(self, model: XViT, dtype: torch.dtype) -> None:
        super().__init__()
        self.names = list(state_shapes(model))
        self.model, self.dtype = model.to(dtype), dtype
        self._readers: list[_StepReader] = []
        for index, block in enumerate(model.backbone.blocks):
            layers = [layer for layer in block.modules() if isinstance(layer, SpatialAttention)]
            for number, layer in enumerate(layers):
                layer.reader = reader = _StepReader(f"blocks.{index}.{number}")
                self._readers.append(reader)
        head = model.temporal_head
        if isinstance(head, TemporalAttention) and head.position is not None:
            self.register_buffer("positions", _padded_positions(head.position.weight.detach()))

    def forward(self, pixel_values: Tensor, state: list[Tensor]) -> list[Tensor]:
        named = dict(zip(self.names, state, strict=True))
        past_mask = named[FRAME_MASK]
        next_state = {FRAME_MASK: torch.cat([past_mask[:, 1:], torch.ones_like(past_mask[:, :1])], dim=1)}
        named = {name: x.to(self.dtype) for name, x in named.items()}
        for reader in self._readers:
            reader.past, reader.next = named, next_state
        x = self.model.encode(pixel_values.to(self.dtype), class_token_only=self.model.class_token_only)
        _, frames = self.model.pool(x)  # (B, 1, D)
        if "frames" in named:
            frames = torch.cat([named["frames"], frames], dim=1)  # (B, T, D)
            next_state["frames"] = frames[:, 1:]
        logits = self.model.classifier(self._clip_embedding(frames, next_state[FRAME_MASK] > 0.5))
        return [x.float() for x in (*as_task_dict(logits).values(), *(next_state[name] for name in self.names))]

    def _clip_embedding(self, frames: Tensor, mask: Tensor) -> Tensor:
        """The temporal head's vector (B, D) of the frames (B, T, D) whose mask (B, T) is True: the last ones."""
        head, count = self.model.temporal_head, mask.sum(dim=1)  # (B,)
        if not isinstance(head, TemporalAttention):  # the mean; the other vectors are zeros
            return frames.sum(dim=1) / count[:, None].to(frames.dtype)
        if head.position is not None:
            frames = frames + cast(Tensor, self.positions)[count - 1]
        tokens = torch.cat([head.cls_token.expand(frames.shape[0], -1, -1), frames], dim=1)  # (B, 1 + T, D)
        visible = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        for block in cast(Iterable[Any], head.blocks):  # of timm
            tokens = tokens + _attend(block.attn, block.norm1(tokens), visible)
            tokens = tokens + block.mlp(block.norm2(tokens))
        clip: Tensor = head.norm(tokens[:, 0])
        return clip


def _attend(attention: Attention, x: Tensor, visible: Tensor) -> Tensor:
    """The temporal head's attention of x (B, 1 + T, D) to the tokens for which `visible` (B, 1 + T) is True.

    Not with an additive mask in a fused attention: in int8 and for fixed shapes, OpenVINO 2026.4 computes that wrongly.
    """
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, h, 1 + T, d)
    scores = qkv[0] * attention.scale @ qkv[1].transpose(-2, -1)
    visible = visible[:, None, None]  # (B, 1, 1, 1 + T)
    largest = scores.masked_fill(~visible, _MASKED).amax(dim=-1, keepdim=True)
    weights = (scores - largest).clamp(max=0).exp() * visible.to(scores.dtype)  # (B, h, 1 + T, 1 + T)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    out: Tensor = attention.proj((weights @ qkv[2]).transpose(1, 2).flatten(-2))
    return out


class _StepReader:
    """The inputs of one attention layer for one new frame, as `StreamReader` gives them, without copies of its general
    form: what is kept of a frame is a part of its projections.

    Attributes:
        past, next: the state by name; set before each step.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.past: Mapping[str, Tensor] = {}
        self.next: dict[str, Tensor] = {}

    def read(self, layer: SpatialAttention, x: Tensor, rope: Tensor | None) -> AttentionInputs:
        """See `AttentionReader`; x is (B, 1, N, D)."""
        pattern = layer.pattern
        if pattern.mixes_tokens:
            x = self._mix(layer, "x", x.unflatten(-1, (layer.num_heads, -1))).flatten(-2)
        inputs = layer.project(x, rope)
        return inputs._replace(
            k=self._mix(layer, "k", inputs.k) if pattern.mixes_keys else inputs.k,
            v=self._mix(layer, "v", inputs.v) if pattern.mixes_values else inputs.v,
        )

    def _mix(self, layer: SpatialAttention, kind: str, x: Tensor) -> Tensor:
        """x (B, 1, N, h, d) with the channels of each slice read from the frame -offset frames before."""
        moved = []
        for index, channels in enumerate(layer.pattern.split(x)):
            name = f"{self.place}.past_{kind}{index}"
            past = self.past[name]  # (B, -offset, N, ...), the oldest frame first
            single = past.shape[1] == 1
            moved.append(past if single else past[:, :1])
            self.next[name] = channels if single else torch.cat([past[:, 1:], channels], dim=1)
        return layer.pattern.join(moved, x)


def _padded_positions(weight: Tensor) -> Tensor:
    """Temporal positions (1, T, D) resized for 1, ..., T frames, each at the end of a window of T: (T, T, D)."""
    T = weight.shape[1]
    rows = [resize_positions(weight, count)[0] for count in range(1, T + 1)]
    return torch.stack([torch.cat([row.new_zeros(T - len(row), weight.shape[2]), row]) for row in rows])


def state_shapes(model: XViT) -> dict[str, list[int]]:
    """Names and shapes, without B, of the state of a stream whose window is full.

    Raises:
        XViTError: a model that cannot be exported as a streaming step of fixed shapes.
    """
    stream = Stream(model)  # raises if the model cannot be streamed
    if stream.latency_frames:
        raise XViTError("causal=False: an exported streaming step cannot wait for later frames; use causal=True")
    if model.config.advanced.temporal_padding == "replicate":
        raise XViTError(
            "temporal_padding='replicate': the state of an exported streaming step starts with zeros; "
            "use temporal_padding='zero'"
        )
    if model.config.summary_tokens:
        raise XViTError(
            f"summary_tokens={model.config.summary_tokens}: their number grows over the first frames, but an exported "
            "streaming step has fixed shapes; use summary_tokens=0"
        )
    size = model.clip_spec.image_size
    stream.push(torch.zeros(1, model.config.num_frames, model.in_chans, size, size, device=model.device))
    shapes = {name: list(tensor.shape[1:]) for name, tensor in stream.tensors().items()}
    return shapes | {FRAME_MASK: [model.config.num_frames]}
