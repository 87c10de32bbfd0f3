"""XViT's config and model as transformers has them.

B clips, T frames, N tokens a frame (patches and prefix tokens), D channels, h heads
"""

from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

import transformers
from xvit.checkpoint import format as checkpoint
from xvit.config import ClassNames, ClipSpec, ModelConfig, from_dict
from xvit.models.attention import LocalAttention
from xvit.models.backbone import build_backbone, resolve_clip_spec
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError


class XViTConfig(transformers.PreTrainedConfig):
    """What config.json of a checkpoint says of a model of one task, as transformers wants it.

    From scratch, give the fields of `ModelConfig`: `XViTConfig(backbone="vit_tiny_patch16_224", num_frames=8,
    num_labels=12)`. The names of the classes, and so their number, are `id2label`, as everywhere in transformers.

    Args:
        format: of config.json.
        model: the fields of `ModelConfig`; they may also be given one by one, as `others`.
        clip: the fields of `ClipSpec`; what is left open is the backbone's, T the model's.
        labels: names of the classes.
        provenance: where the weights come from, plain values.
        num_labels: number of classes, for names that are their numbers; by default as many as `labels`.
        others: fields of `ModelConfig`, and what transformers itself knows.

    Attributes:
        model: the `ModelConfig`. To change a field: `config.model = dataclasses.replace(config.model, dropout=0.5)`.
        clip: the `ClipSpec`.

    Raises:
        XViTError: several tasks, a wrong name or value, a format newer than this version.
    """

    model_type = "xvit"

    def __init__(
        self,
        *,
        format: int = checkpoint.FORMAT,
        model: dict[str, Any] | None = None,
        clip: dict[str, Any] | None = None,
        labels: ClassNames | None = None,
        provenance: dict[str, Any] | None = None,
        num_labels: int | None = None,
        **others: Any,
    ) -> None:
        checkpoint.check_format(format, "XViTConfig")
        fields = {name: others.pop(name) for name in ModelConfig.__dataclass_fields__ if name in others}
        self.model = from_dict(ModelConfig, {**(model or {}), **fields}, "XViTConfig")
        if not isinstance(self.model.num_classes, int) or self.model.multi_label:
            raise XViTError(
                f"num_classes={self.model.num_classes}, multi_label={self.model.multi_label}: models of one task only, "
                "with one label a video; open others with xvit.XViT"
            )
        self.clip = from_dict(ClipSpec, {"num_frames": self.model.num_frames, **(clip or {})}, "XViTConfig")
        if self.clip.open_fields:
            with torch.device("meta"):
                self.clip = resolve_clip_spec(self.clip, build_backbone(self.model))
        self.provenance = provenance or {}
        if others.get("id2label") is None:
            names = list(labels) if labels is not None else [str(number) for number in range(self.model.num_classes)]
            if num_labels is not None and num_labels != len(names):
                names = [str(number) for number in range(num_labels)]
            others["id2label"] = dict(enumerate(names))
            others["label2id"] = {name: number for number, name in enumerate(names)}
        super().__init__(**others)

    @property
    def num_frames(self) -> int:
        """T, frames a clip."""
        return self.clip.num_frames

    @num_frames.setter
    def num_frames(self, value: int) -> None:
        if value != self.clip.num_frames:
            raise XViTError(
                f"num_frames={value}: this checkpoint's is {self.clip.num_frames}, though its model takes clips of any "
                "length; to start another from it: XViTConfig(checkpoint_path=DIR, backbone=..., num_frames=...)"
            )

    @property
    def image_size(self) -> int:
        """S, height and width of a frame, pixels."""
        return self.clip.image_size

    @property
    def description(self) -> checkpoint.CheckpointMetadata:
        """What a checkpoint says of the model.

        Raises:
            XViTError: keys of `id2label` that are not 0, 1, 2, ...
        """
        names = {int(number): str(name) for number, name in self.id2label.items()}
        if sorted(names) != list(range(len(names))):
            raise XViTError(f"id2label of the classes {sorted(names)}: expected 0 to {len(names) - 1}")
        return checkpoint.CheckpointMetadata(
            model=replace(self.model, num_classes=len(names)),
            clip_spec=self.clip,
            class_names=[names[number] for number in range(len(names))],
            provenance=self.provenance,
        )

    def to_dict(self) -> dict[str, Any]:
        """The values of config.json: xvit's, and the few that transformers needs beside them."""
        theirs = {key: value for key, value in super().to_dict().items() if key in checkpoint.TRANSFORMERS_KEYS}
        return self.description.to_dict() | {key: value for key, value in theirs.items() if value is not None}

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json, and preprocessor_config.json beside it: with the weights, a whole checkpoint directory."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        checkpoint.write_preprocessor(Path(save_directory), self.clip)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)


class XViTForVideoClassification(transformers.PreTrainedModel):
    """`XViT` as a model of transformers, with the same modules under the same names.

    Its attention is torch's scaled_dot_product_attention ("sdpa") or, for a look at the weights, "eager". Gradient
    checkpointing is XViT's own, whatever `gradient_checkpointing_kwargs` say.

    Args:
        config: the model; with `pretrained` or `checkpoint_path` it starts from those weights.
    """

    config_class = XViTConfig
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: XViTConfig) -> None:
        super().__init__(config)
        description = config.description
        model = XViT(description.model)
        model.clip_spec, model.class_names, model.provenance = (
            description.clip_spec,
            description.class_names,
            description.provenance,
        )
        # One dict of modules for both: what PEFT puts in the place of one is the XViT's too. The XViT itself is out of
        # torch's sight, or its name would stand before each tensor's.
        self._modules = model._modules
        self.__dict__["_xvit"] = model
        self._fuse_attention()
        self.post_init()

    @property
    def xvit(self) -> XViT:
        """The model itself, with the same modules: for `xvit.Predictor`, `XViT.macs`, ..."""
        model: XViT = self._xvit
        if model._modules is not self._modules:  # self is a replica of DataParallel's, with modules of its own
            model = copy(model)
            model._modules = self._modules
            self.__dict__["_xvit"] = model
        return model

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Classify clips.

        Args:
            pixel_values: (B, T, C, H, W), as `XViTVideoProcessor` makes them.
            labels: (B,) numbers of the true classes, for the loss.
            output_hidden_states: return the tokens as they enter the first block and as they leave each.
            output_attentions: return the attention weights of each layer; needs attn_implementation="eager".
            return_dict: False for a tuple of what is there. These three are the config's by default.

        Returns:
            loss: mean cross-entropy, if there are labels.
            logits: (B, classes).
            hidden_states: each (B, T N, D), frame after frame, before the backbone's last norm.
            attentions: each (B T, h, N, keys), frame after frame: N keys, and T R more with summary tokens;
                (B, h, T N, T N) of joint attention; of divided attention the weights within the frame.

        Raises:
            XViTError: a wrong shape, attention weights that cannot be had.
        """
        config = self.config
        return_dict = config.return_dict if return_dict is None else return_dict
        hidden_states: list[Tensor] | None = None
        weights: list[Tensor] | None = None
        hooks: list[Any] = []
        if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            hidden_states, blocks = [], self.backbone.blocks
            hooks.append(blocks[0].register_forward_pre_hook(partial(_keep_input, hidden_states)))
            hooks += [block.register_forward_hook(partial(_keep_tokens, hidden_states)) for block in blocks]
        if config.output_attentions if output_attentions is None else output_attentions:
            self._check_weights_seen()
            weights = []
            hooks += [
                layer.attn_drop.register_forward_hook(partial(_keep, weights)) for layer in self.xvit.attention_layers
            ]
        try:
            # With all tokens in the last layer, if somebody looks at them.
            xvit = self.xvit
            logits = (
                xvit.classifier(xvit.forward_features(pixel_values).clip_embedding) if hooks else xvit(pixel_values)
            )
        finally:
            for hook in hooks:
                hook.remove()
        output = ImageClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if weights is None else tuple(weights),
        )
        return output if return_dict else output.to_tuple()

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Choose "sdpa" or "eager"; see `PreTrainedModel.set_attn_implementation`."""
        super().set_attn_implementation(*args, **kwargs)
        self._fuse_attention()

    def get_input_embeddings(self) -> nn.Module:
        """The module that makes tokens of pixels: PEFT hooks it for gradient checkpointing."""
        patches: nn.Module = self.backbone.patch_embed
        return patches

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks recompute their activations; transformers sets it (`activation_checkpointing_enable`)."""
        return bool(self.backbone.grad_checkpointing)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.backbone.set_grad_checkpointing(enable)

    def init_weights(self) -> None:
        """Nothing: XViT has initialised itself, or loaded the weights it starts from."""

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Give what a checkpoint did not bring, such as a classifier of other classes, the values of a new XViT."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}  # rotary frequencies are not in files
        missing = [name for name, tensor in tensors.items() if not getattr(tensor, "_is_hf_initialized", False)]
        if missing:
            model = XViT(self.config.description.model)
            new = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name in missing:
                tensors[name].copy_(new[name])

    def _fuse_attention(self) -> None:
        for layer in self.xvit.attention_layers:
            # Final for TorchScript alone
            layer.fused_attn = self.config._attn_implementation != "eager"  # type: ignore[misc]

    def _check_weights_seen(self) -> None:
        if self.config._attn_implementation != "eager":
            raise XViTError(
                f'output_attentions=True: not with attn_implementation="{self.config._attn_implementation}", which '
                'keeps no weights: attn_implementation="eager", or model.set_attn_implementation("eager")'
            )
        if any(isinstance(layer, LocalAttention) for layer in self.xvit.attention_layers):
            raise XViTError("output_attentions=True: not with attention='local', whose frames see more or fewer keys")


def _keep(kept: list[Tensor], module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    kept.append(output)


def _keep_tokens(kept: list[Tensor], module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    kept.append(output.flatten(1, 2))  # (B, T, N, D) -> (B, T N, D)


def _keep_input(kept: list[Tensor], module: nn.Module, args: tuple[Tensor]) -> None:
    kept.append(args[0].flatten(1, 2))
