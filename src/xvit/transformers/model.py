"""XViT's config and model as classes of transformers.

B clips, T frames, N tokens per frame (patches and prefix tokens), D channels, h heads
"""

from copy import copy
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_outputs import ImageClassifierOutput

from xvit.checkpoint import format as checkpoint
from xvit.config import (
    SINGLE_TASK,
    AdvancedConfig,
    ClassNames,
    InitConfig,
    ModelConfig,
    as_task_dict,
    from_dict,
    model_config,
    stored_clip_spec,
    to_dict,
)
from xvit.models.attention import LocalAttention
from xvit.models.backbone import build_backbone, resolve_clip_spec
from xvit.models.pretrained import load_initial_weights
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError
from xvit.utils.files import write_json

_OPTIONS = {field.name for config in (ModelConfig, AdvancedConfig) for field in fields(config)}


class XViTConfig(transformers.PreTrainedConfig):
    """The contents of a checkpoint's config.json, for a model of one task.

    To train from scratch, give the model's options by name: `XViTConfig(backbone="vit_tiny_patch16_224", num_frames=8,
    num_labels=12)`. As everywhere in transformers, `id2label` holds the class names, and so their number.

    Args:
        format: of config.json.
        model: the fields of `ModelConfig`.
        clip_spec: the fields of `ClipSpec`; what is left open is the backbone's, T the model's. Without a frame rate,
            the frames of a video are counted as they are.
        class_names: names of the classes.
        provenance: where the weights come from, as plain values.
        calibration: as in config.json. It is kept with the weights, whose logits are not changed by it; xvit obeys it.
        num_labels: number of classes, which are then named by their indices; by default as many as `class_names`.
        pretrained, checkpoint_path: where a new model's initial weights come from; see `InitConfig`.
        options: other fields of `ModelConfig` and `AdvancedConfig`, and settings of transformers.

    Attributes:
        model: the `ModelConfig`. To change a field: `config.model = dataclasses.replace(config.model, dropout=0.5)`.
        clip_spec: the `ClipSpec`.
        init: the `InitConfig`; config.json does not hold it.

    Raises:
        XViTError: several tasks, a wrong name or value, a format of another version.
    """

    model_type = "xvit"

    def __init__(
        self,
        *,
        format: int = checkpoint.FORMAT,
        model: dict[str, Any] | None = None,
        clip_spec: dict[str, Any] | None = None,
        class_names: ClassNames | None = None,
        provenance: dict[str, Any] | None = None,
        calibration: dict[str, Any] | None = None,
        num_labels: int | None = None,
        pretrained: bool = False,
        checkpoint_path: str | Path = "",
        **options: Any,
    ) -> None:
        checkpoint.check_format(format, "XViTConfig")
        flat_options = {name: options.pop(name) for name in _OPTIONS.intersection(options)}
        merged = model_config(from_dict(ModelConfig, model or {}, "XViTConfig"), **flat_options)
        self.model = from_dict(ModelConfig, to_dict(merged), "XViTConfig")  # checks the types of the flat options
        if not isinstance(self.model.num_classes, int) or self.model.multi_label:
            raise XViTError(
                f"num_classes={self.model.num_classes}, multi_label={self.model.multi_label}: transformers supports "
                "models of one task with one label per video only; open other models with xvit.XViT"
            )
        self.init = InitConfig(pretrained=pretrained, checkpoint_path=str(checkpoint_path))
        self.clip_spec = stored_clip_spec({"num_frames": self.model.num_frames, **(clip_spec or {})}, "XViTConfig")
        if self.clip_spec.open_fields:
            with torch.device("meta"):
                self.clip_spec = resolve_clip_spec(self.clip_spec, build_backbone(self.model))
        self.provenance = provenance or {}
        self.calibration = checkpoint.stored_calibration(calibration, self.model)
        if options.get("id2label") is None:
            names = list(class_names) if class_names is not None else list(map(str, range(self.model.num_classes)))
            if num_labels is not None and num_labels != len(names):
                names = list(map(str, range(num_labels)))
            options["id2label"] = dict(enumerate(names))
            options["label2id"] = {name: index for index, name in enumerate(names)}
        super().__init__(**options)

    @property
    def num_frames(self) -> int:
        """T, frames per clip."""
        return self.clip_spec.num_frames

    @num_frames.setter
    def num_frames(self, value: int) -> None:
        if value != self.clip_spec.num_frames:
            raise XViTError(
                f"num_frames={value}: this checkpoint has {self.clip_spec.num_frames} (its model accepts clips of any "
                "length); to start a model of another T from it: XViTConfig(checkpoint_path=DIR, backbone=..., "
                "num_frames=...)"
            )

    @property
    def image_size(self) -> int:
        """S, height and width of a frame in pixels."""
        return self.clip_spec.image_size

    @property
    def checkpoint_metadata(self) -> checkpoint.CheckpointMetadata:
        """What a checkpoint's config.json says about the model.

        Raises:
            XViTError: keys of `id2label` that are not 0, 1, 2, ...
        """
        names = {int(index): str(name) for index, name in self.id2label.items()}
        if sorted(names) != list(range(len(names))):
            raise XViTError(f"id2label has the class indices {sorted(names)}: expected 0 to {len(names) - 1}")
        return checkpoint.CheckpointMetadata(
            model=replace(self.model, num_classes=len(names)),
            clip_spec=self.clip_spec,
            class_names=[names[index] for index in range(len(names))],
            provenance=self.provenance,
            calibration=self.calibration,
        )

    def to_dict(self) -> dict[str, Any]:
        """The values of config.json: those of xvit, and the few that transformers adds."""
        values = super().to_dict()
        added = {key: values[key] for key in checkpoint.TRANSFORMERS_KEYS if values.get(key) is not None}
        return self.checkpoint_metadata.to_dict() | added

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json and preprocessor_config.json; with the weights they make a complete checkpoint."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / checkpoint.PREPROCESSOR, checkpoint.preprocessor_config(self.clip_spec))
        super().save_pretrained(save_directory, push_to_hub, **kwargs)


class XViTForVideoClassification(transformers.PreTrainedModel):
    """`XViT` as a model of transformers, with the same modules under the same names.

    Its attention is torch's scaled_dot_product_attention ("sdpa") or, to return the attention weights, "eager".
    Gradient checkpointing is XViT's own and ignores `gradient_checkpointing_kwargs`.

    Args:
        config: of the model; with `pretrained` or `checkpoint_path` it starts from those weights.
    """

    config_class = XViTConfig
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: XViTConfig) -> None:
        super().__init__(config)
        model = _create_xvit(config)
        # Both share one dict of modules: what PEFT replaces is replaced in the XViT too. The XViT itself is hidden from
        # torch, which would otherwise prefix the name of each tensor with its name.
        self._modules = model._modules
        self.__dict__["_xvit"] = model
        self._select_attention()
        self.post_init()

    @property
    def xvit(self) -> XViT:
        """The XViT, with the same modules, for `xvit.Predictor`, `count_macs`, ..."""
        model: XViT = self._xvit
        if model._modules is not self._modules:  # self is a replica made by DataParallel, with its own modules
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
            pixel_values: (B, T, C, H, W), as `XViTVideoProcessor` returns them.
            labels: (B,) indices of the true classes, for the loss.
            output_hidden_states: return the input of the first block and the output of each block.
            output_attentions: return the attention weights of each layer; needs attn_implementation="eager".
            return_dict: False for a tuple of the values that are not None. The config sets the default of the last
                three arguments.

        Returns:
            A loss, the mean cross-entropy, if there are labels; logits (B, classes); hidden_states, each (B, T N, D),
            frame by frame, before the backbone's last norm; attentions, each (B T, h, N, keys), frame by frame, with
            N keys, and T R more with summary tokens; (B, h, T N, T N) for joint attention; for divided attention the
            weights within the frame.

        Raises:
            XViTError: a wrong shape, attention weights that are not available.
        """
        xvit, config = self.xvit, self.config
        needs_attentions = config.output_attentions if output_attentions is None else output_attentions
        if needs_attentions:
            self._check_attentions_available()
        hidden_states: list[Tensor] = []  # (B, T, N, D)
        attentions: list[Tensor] = []
        hooks: list[RemovableHandle] = []
        if config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            blocks = self.backbone.blocks
            hooks.append(blocks[0].register_forward_pre_hook(lambda _, args: hidden_states.append(args[0])))
            hooks += [block.register_forward_hook(lambda *args: hidden_states.append(args[2])) for block in blocks]
        if needs_attentions:
            dropouts = [layer.attn_drop for layer in xvit.attention_layers]
            hooks += [dropout.register_forward_hook(lambda *args: attentions.append(args[2])) for dropout in dropouts]
        try:
            if hooks:  # all tokens of the last layer are needed, which xvit() does not compute
                logits = xvit.classifier(xvit.forward_features(pixel_values).clip_embedding)
            else:
                logits = xvit(pixel_values)
        finally:
            for hook in hooks:
                hook.remove()
        logits = as_task_dict(logits)[SINGLE_TASK]
        output = ImageClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=tuple(x.flatten(1, 2) for x in hidden_states) or None,
            attentions=tuple(attentions) or None,
        )
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Choose "sdpa" or "eager"; see `PreTrainedModel.set_attn_implementation`."""
        super().set_attn_implementation(*args, **kwargs)
        self._select_attention()

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding; PEFT hooks it for gradient checkpointing."""
        patches: nn.Module = self.backbone.patch_embed
        return patches

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks recompute their activations. `activation_checkpointing_enable` of transformers sets it."""
        return bool(self.backbone.grad_checkpointing)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.backbone.set_grad_checkpointing(enable)

    def init_weights(self) -> None:
        """Does nothing: XViT initialises itself, or loads its initial weights."""

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise the tensors that a checkpoint lacks, such as a new classifier, as a new XViT does."""
        tensors = dict(chain(self.named_parameters(), self.named_buffers()))  # files lack rotary frequencies
        missing = [name for name, tensor in tensors.items() if not getattr(tensor, "_is_hf_initialized", False)]
        if missing:
            model = _create_xvit(self.config)
            new = dict(chain(model.named_parameters(), model.named_buffers()))
            for name in missing:
                tensors[name].copy_(new[name])

    def _select_attention(self) -> None:
        for layer in self.xvit.attention_layers:
            # Final for TorchScript alone
            layer.fused_attn = self.config._attn_implementation != "eager"  # type: ignore[misc]

    def _check_attentions_available(self) -> None:
        if self.config._attn_implementation != "eager":
            raise XViTError(
                f'output_attentions=True: attn_implementation="{self.config._attn_implementation}" does not compute '
                'the weights; use attn_implementation="eager", or model.set_attn_implementation("eager")'
            )
        if any(isinstance(layer, LocalAttention) for layer in self.xvit.attention_layers):
            raise XViTError(
                "output_attentions=True: not available with attention='local', whose number of keys differs by frame"
            )


def _create_xvit(config: XViTConfig) -> XViT:
    """A new XViT with the initial weights that the config names."""
    metadata = config.checkpoint_metadata
    model = XViT(metadata.model)
    if config.init:
        load_initial_weights(model, config.init)
    model.clip_spec, model.class_names, model.provenance = metadata.clip_spec, metadata.class_names, metadata.provenance
    return model
