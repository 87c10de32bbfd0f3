"""The blocks of a model in a stream: what each of them keeps between pushes, and how its attention layers read it.

    B parallel streams, n new or pending frames, m frames whose turn it is, N tokens per frame, M of them computed, D
    channels, h heads of d channels

All tokens are computed (M = N), unless a stream carries unchanged patches forward (`xvit.models.stream_patches`). Then
a layer gets M tokens of a frame and keeps the keys and values of all N, so each of its queries attends to N tokens:

    frame             t-1                      t
    tokens       # # # # # # # #          #   . # # . . . .      # computed   . unchanged
    keys         k k k k k k k k          k   | k k | | | |      | carried forward from frame t - 1
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from xvit.models.attention import AttentionInputs, SpatialAttention
from xvit.models.backbone import ClassTokenBlock
from xvit.utils.errors import XViTError

# The input of a block's attention, from the block's input: a centered model projects frames when they arrive. When the
# block later runs on them, its attention takes these projections, and uses its own input for a gate only.
_ATTENTION_INPUT: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    Block: lambda block, x: block.norm1(x),
    ClassTokenBlock: lambda block, x: block.norm1(x),
    EvaBlock: lambda block, x: block.norm1(x),
    ResPostBlock: lambda block, x: x,
    EvaBlockPostNorm: lambda block, x: x,
}


class StreamReader:
    """The inputs of one attention layer in a stream, and what the layer keeps between pushes.

    Attributes:
        tensors: the kept tensors by name; replaced, never changed in place. `pending_*` are the inputs of frames that
            still wait for later ones, `past_*` what later frames need of earlier ones, `carried_*` the keys and values
            of all tokens of the last frame.
        tokens: indices (M,) of the tokens that the layer gets; None for all of them.
    """

    def __init__(self, layer: SpatialAttention) -> None:
        self.lookahead = layer.pattern.lookahead  # frames that an output waits for
        self.tensors: dict[str, Tensor] = {}
        self.tokens: Tensor | None = None

    def append(self, layer: SpatialAttention, x: Tensor, rope: Tensor | None) -> None:
        """Add the inputs of new frames x (B, n, N, D) to those of the pending frames."""
        if layer.pattern.mixes_tokens:
            new = {"x": x.unflatten(-1, (layer.num_heads, -1))}
        else:
            new = layer.project(x, rope)._asdict()
        if self.tokens is not None:
            new |= {name: self._carry(name, new[name], self.tokens) for name in "kv"}
        for name, tensor in new.items():
            if not tensor.shape[1]:  # no summary tokens
                continue
            pending = self.tensors.get(f"pending_{name}")
            self.tensors[f"pending_{name}"] = tensor if pending is None else torch.cat([pending, tensor], dim=1)

    def _carry(self, name: str, new: Tensor, tokens: Tensor) -> Tensor:
        """Keys or values of all tokens (B, 1, N, h, d): the new ones (B, 1, M, h, d), the others of the last frame."""
        last = self.tensors.get(f"carried_{name}")
        carried = new.clone() if last is None else last.index_copy(2, tokens, new)  # of the first frame all are new
        self.tensors[f"carried_{name}"] = carried
        return carried

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
            summaries = [self.tensors.pop(f"pending_summary_{kind}", k[:, :0, 0]) for kind in "kv"]  # (B, m R, h, d)
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


class StreamBlock:
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

    def tensors(self) -> dict[str, Tensor]:
        """What the block keeps, by name."""
        named = {} if self.pending is None else {"pending": self.pending}
        for index, reader in enumerate(self.readers):
            named |= {f"{index}.{name}": tensor for name, tensor in reader.tensors.items()}
        return named

    def load(self, name: str, tensor: Tensor) -> None:
        """Load one of `tensors`."""
        if name == "pending":
            self.pending = tensor
        else:
            index, inner = name.split(".")
            self.readers[int(index)].tensors[inner] = tensor

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
