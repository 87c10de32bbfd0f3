"""XViT in Hugging Face transformers: the same model, files and numbers behind its Auto classes, `Trainer`, `pipeline`
and PEFT. `import xvit.transformers` registers the three classes below; nothing else in xvit needs transformers.

    import transformers
    import xvit.transformers

    classify = transformers.pipeline("video-classification", model="run/best")  # what `xvit train` wrote

A directory that one side writes the other side opens: the tensors in model.safetensors have the same names, and
config.json is xvit's own, from which `XViTConfig` is read and to which it is written.

    B clips, T frames, N tokens a frame (patches and prefix tokens), D channels, h heads, S pixels
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    import transformers
    from transformers.modeling_outputs import ImageClassifierOutput
    from transformers.video_processing_utils import BaseVideoProcessor
except ImportError as error:
    raise ImportError(f"xvit.transformers needs transformers ({error}): pip install 'xvit[transformers]'") from error

from xvit import checkpoint
from xvit.config import ClipSpec, Labels, ModelConfig, from_dict
from xvit.data.sampling import sample_indices
from xvit.data.transforms import eval_views, normalize
from xvit.data.video import read_clip
from xvit.errors import XViTError
from xvit.models.attention import LocalAttention
from xvit.models.backbone import build_backbone, complete_clip
from xvit.models.xvit import XViT


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
        labels: Labels | None = None,
        provenance: dict[str, Any] | None = None,
        num_labels: int | None = None,
        **others: Any,
    ) -> None:
        checkpoint.check_format(format, "XViTConfig")
        fields = {name: others.pop(name) for name in ModelConfig.__dataclass_fields__ if name in others}
        self.model = from_dict(ModelConfig, {**(model or {}), **fields}, "XViTConfig")
        if not isinstance(self.model.num_classes, int):
            raise XViTError(
                f"num_classes={self.model.num_classes}: models of one task only; open those of several with xvit.XViT"
            )
        self.clip = from_dict(ClipSpec, {"num_frames": self.model.num_frames, **(clip or {})}, "XViTConfig")
        if self.clip.left_open:
            with torch.device("meta"):
                self.clip = complete_clip(self.clip, build_backbone(self.model))
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
    def description(self) -> checkpoint.Description:
        """What a checkpoint says of the model.

        Raises:
            XViTError: keys of `id2label` that are not 0, 1, 2, ...
        """
        names = {int(number): str(name) for number, name in self.id2label.items()}
        if sorted(names) != list(range(len(names))):
            raise XViTError(f"id2label of the classes {sorted(names)}: expected 0 to {len(names) - 1}")
        return checkpoint.Description(
            model=replace(self.model, num_classes=len(names)),
            clip=self.clip,
            labels=[names[number] for number in range(len(names))],
            provenance=self.provenance,
        )

    def to_dict(self) -> dict[str, Any]:
        """The values of config.json: xvit's, and the few that transformers needs beside them."""
        theirs = {key: value for key, value in super().to_dict().items() if key in checkpoint.OF_TRANSFORMERS}
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
        model.clip, model.labels, model.provenance = description.clip, description.labels, description.provenance
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
            hooks += [layer.attn_drop.register_forward_hook(partial(_keep, weights)) for layer in self.xvit.attentions]
        try:
            logits = self.xvit(pixel_values)
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
        for layer in self.xvit.attentions:
            # Final for TorchScript alone
            layer.fused_attn = self.config._attn_implementation != "eager"  # type: ignore[misc]

    def _check_weights_seen(self) -> None:
        if self.config._attn_implementation != "eager":
            raise XViTError(
                f'output_attentions=True: not with attn_implementation="{self.config._attn_implementation}", which '
                'keeps no weights: attn_implementation="eager", or model.set_attn_implementation("eager")'
            )
        if any(isinstance(layer, LocalAttention) for layer in self.xvit.attentions):
            raise XViTError("output_attentions=True: not with attention='local', whose frames see more or fewer keys")


class XViTVideoProcessor(BaseVideoProcessor):
    """Videos to `pixel_values`, as `xvit.Predictor` does it: short side to S, the square in the centre, normalised.

    Attributes:
        num_frames, sampling, stride: which frames are taken of a file; see `ClipSpec`.
        size: {"shortest_edge": S}, pixels.
        resample: of the resizing, Pillow's number: 2 is bilinear, 3 bicubic.
        image_mean, image_std: of the normalisation, a number a colour, of RGB in [0, 1].
    """

    model_input_names = ("pixel_values",)
    num_frames = 8
    sampling = "segments"
    stride = 1
    size = {"shortest_edge": 224}  # noqa: RUF012, transformers copies it
    resample = 3
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    @property
    def clip(self) -> ClipSpec:
        """The attributes as a `ClipSpec`.

        Raises:
            XViTError: a value out of its range or its choices.
        """
        interpolation: Any = {number: name for name, number in checkpoint.RESAMPLE.items()}.get(self.resample)
        sampling: Any = self.sampling
        size: Any = self.size.get("shortest_edge") or self.size.get("height")
        return ClipSpec(
            num_frames=self.num_frames,
            sampling=sampling,
            stride=self.stride,
            image_size=size,
            interpolation=interpolation,
            mean=tuple(self.image_mean),
            std=tuple(self.image_std),
        )

    def preprocess(
        self,
        videos: Any,
        *,
        num_frames: int | None = None,
        do_sample_frames: bool = False,
        return_tensors: str | None = "pt",
    ) -> transformers.BatchFeature:
        """Prepare one video or a batch of them.

        Args:
            videos: a video or a list of them, each the path of a file, or uint8 RGB frames: a list of T pictures (PIL,
                or arrays (H, W, 3)), or an array or tensor (T, H, W, 3) or (T, 3, H, W). A batch may also be an array
                of 5 dimensions. Clips of a batch must have equally many frames.
            num_frames: T to choose; the attribute by default.
            do_sample_frames: choose T of the frames given, as is always done with a file.
            return_tensors: "pt" or "np".

        Returns:
            {"pixel_values": (B, T, 3, S, S) float32}.

        Raises:
            VideoError: a file that cannot be read.
            XViTError: frames of another shape or type, unlike numbers of frames.
        """
        clip = replace(self.clip, num_frames=num_frames or self.num_frames)
        clips = [_frames(video, clip, do_sample_frames) for video in _split(videos)]
        if len({len(frames) for frames in clips}) != 1:
            raise XViTError(f"clips of {[len(frames) for frames in clips]} frames: expected all of the same length")
        # contiguous: the last bits of the model's output depend on the memory's layout, and Predictor's is this
        pixels = torch.cat([eval_views(frames, clip) for frames in clips]).contiguous()  # (B, T, 3, S, S)
        return transformers.BatchFeature({"pixel_values": normalize(pixels, clip)}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """The values of preprocessor_config.json."""
        return checkpoint.preprocessor(self.clip) | {"video_processor_type": type(self).__name__}


def _split(videos: Any) -> Sequence[Any]:
    """A batch as its videos; a single video as a batch of one."""
    if isinstance(videos, str | Path):
        return [videos]
    if hasattr(videos, "ndim"):
        return videos if videos.ndim == 5 else [videos]
    # A list of what is itself a video, or of the pictures (PIL has no ndim) of one
    first = videos[0] if len(videos) else None
    several = isinstance(first, str | Path | Sequence) or getattr(first, "ndim", 3) > 3
    return videos if several else [videos]


def _frames(video: Any, clip: ClipSpec, sample: bool) -> Tensor:
    """The frames of one video, (T, 3, H, W) uint8."""
    if isinstance(video, str | Path):
        return read_clip(video, lambda info: sample_indices(clip, info.num_frames), short_side=clip.image_size).frames
    if isinstance(video, Sequence):
        video = [np.asarray(x if hasattr(x, "ndim") else x.convert("RGB")) for x in video]
    if not isinstance(video, Tensor):
        video = torch.from_numpy(np.array(video, order="C"))  # a copy: torch takes no array that runs backwards
    frames: Tensor = video
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise XViTError(f"frames of shape {tuple(frames.shape)}: expected (T, H, W, 3) or (T, 3, H, W)")
    if frames.shape[3] == 3:
        frames = frames.permute(0, 3, 1, 2)  # (T, H, W, 3) -> (T, 3, H, W), a view, as files are read
    return frames[sample_indices(clip, len(frames))] if sample else frames


def _keep(kept: list[Tensor], module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    kept.append(output)


def _keep_tokens(kept: list[Tensor], module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    kept.append(output.flatten(1, 2))  # (B, T, N, D) -> (B, T N, D)


def _keep_input(kept: list[Tensor], module: nn.Module, args: tuple[Tensor]) -> None:
    kept.append(args[0].flatten(1, 2))


transformers.AutoConfig.register("xvit", XViTConfig)
transformers.AutoModelForVideoClassification.register(XViTConfig, XViTForVideoClassification)
transformers.AutoVideoProcessor.register(XViTConfig, XViTVideoProcessor)
transformers.AutoImageProcessor.register(XViTConfig, image_processor_classes={"torchvision": XViTVideoProcessor})
