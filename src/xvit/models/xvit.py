"""XViT = a timm Vision Transformer + an attention scheme over its frames + a temporal head.

B clips, T frames (or tubelets, once they are embedded), P patches and N tokens per frame, D channels

pixel_values ─▶ patches, class token, positions ─▶ + temporal position ─▶ L blocks with a scheme as their attention
(B, T, C, H, W)        timm, frame by frame          (B, T, N, D)            (B, T, N, D)
             ─▶ timm's own pooling, one vector per frame ─▶ Temporal Attention or mean ─▶ classifier ─▶ logits
                              (B, T, D)                              (B, D)                       (B, classes)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from xvit.checkpoint import CONFIG, CheckpointMetadata, read_metadata
from xvit.checkpoint.hub import find_checkpoint
from xvit.checkpoint.weights import check_num_layers, drop_stale_calibration, read_tensors, write_checkpoint
from xvit.config import SINGLE_TASK, Calibration, ClassNames, ClipSpec, ModelConfig, as_task_dict, unwrap_single_task
from xvit.models.attention import SpatialAttention
from xvit.models.backbone import ClassTokenBlock, build_backbone, resolve_clip_spec
from xvit.models.load_report import LoadReport
from xvit.models.temporal import Classifier, FrameProjection, TemporalAttention, TemporalMean, TemporalPosition
from xvit.models.token_merging import merge_similar_tokens
from xvit.utils.devices import resolve_device
from xvit.utils.errors import XViTError, one_line
from xvit.utils.threads import limit_threads


class Features(NamedTuple):
    """Features of clips before the classifier.

    Args:
        tokens: (B, T, N, D), after the backbone's last norm, prefix tokens first.
        frames: (B, T, D), timm's own pooling of each frame, and the frame projection if there is one.
        clip_embedding: (B, D), what the temporal head makes of the frames.
    """

    tokens: Tensor
    frames: Tensor
    clip_embedding: Tensor


class XViT(nn.Module):
    """Video transformer on a timm Vision Transformer (paper, section 3). `create_model` also loads initial weights.

    Args:
        config: backbone, scheme, head; see `ModelConfig`.

    Attributes:
        class_token_only: skip what has no effect on the logits: in the last block, everything but the class tokens,
            where only those are pooled. On if the backbone allows it; it may be turned off. `forward_features`, which
            returns all tokens, ignores it.
        clip_spec: how a video becomes `pixel_values`; at first T segments, the rest as the image model was trained.
        class_names: names of the classes, a dict of such lists for several tasks; at first their indices.
        provenance: where the weights come from, as plain values; stored in checkpoints.
        calibration: of each task; empty if the model is not calibrated. A checkpoint keeps it with the same weights.
        load_report: what became of the initial weights that were loaded; None if none were.

    Raises:
        XViTError: an unknown backbone, one whose blocks take no attention scheme, options that exclude each other.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.class_token_only = isinstance(self.backbone.blocks[-1], ClassTokenBlock)
        dim, T = self.backbone.num_features, config.num_frames // config.tubelet_size
        self.temporal_position = TemporalPosition(T, dim) if config.temporal_position == "input" else None
        if config.temporal_head == "attention":
            self.temporal_head: nn.Module = TemporalAttention(
                dim,
                num_heads=self.attention_layers[0].num_heads,
                layers=config.advanced.temporal_layers,
                num_frames=T if config.temporal_position == "head" else None,
            )
        else:
            self.temporal_head = TemporalMean()
        self.frame_projection = FrameProjection(dim) if config.advanced.frame_projection else None
        self.classifier = Classifier(
            dim, config.tasks, hidden=config.advanced.classifier_hidden, dropout=config.dropout
        )
        self.clip_spec: ClipSpec = resolve_clip_spec(ClipSpec(num_frames=config.num_frames), self.backbone)
        self.class_names: ClassNames = unwrap_single_task(
            {task: [str(index) for index in range(classes)] for task, classes in config.tasks.items()}
        )
        self.provenance: Mapping[str, Any] = {}
        self.calibration: Mapping[str, Calibration] = {}
        self.load_report: LoadReport | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def precision(self) -> str:
        """The weights' type, such as float32."""
        return str(next(self.parameters()).dtype).removeprefix("torch.")

    @property
    def in_chans(self) -> int:
        """C, channels of a frame."""
        return int(self.backbone.in_chans) // self.config.tubelet_size

    @property
    def approximate_macs(self) -> int:
        """Multiply-adds of a frame's weights. `count_macs` also counts the attention, and takes a second."""
        patches: int = self.backbone.patch_embed.num_patches
        return patches * sum(weight.numel() for weight in self.backbone.parameters())

    @property
    def attention_layers(self) -> list[SpatialAttention]:
        """The attention layers of the backbone, first layer first."""
        return [module for module in self.backbone.modules() if isinstance(module, SpatialAttention)]

    def forward(self, pixel_values: Tensor) -> Tensor | dict[str, Tensor]:
        """Classify clips.

        Args:
            pixel_values: (B, T, C, H, W), normalised as `clip_spec` says. Any T; H and W must be multiples of the
                patch size.

        Returns:
            Logits (B, classes); for several tasks a dict of them.

        Raises:
            XViTError: a wrong shape or type, such as uint8 pixels that are not normalised; an empty batch.
        """
        return self.classify_frames(self.embed_frames(pixel_values))

    def embed_frames(self, pixel_values: Tensor) -> Tensor:
        """Frame vectors (B, T, D) of clips, those of `Features.frames`; see `forward` for the input."""
        return self.pool(self.encode(pixel_values, class_token_only=self.class_token_only))[1]

    def classify_frames(self, frames: Tensor) -> Tensor | dict[str, Tensor]:
        """Logits, as `forward` returns them, from the frame vectors (B, T, D)."""
        logits = self.classifier(self.temporal_head(frames))
        return unwrap_single_task(as_task_dict(logits))  # users may replace the classifier by one that returns a tensor

    def probabilities(self, logits: Tensor, task: str = SINGLE_TASK) -> Tensor:
        """Class scores in [0, 1], float32: softmax, which adds up to 1, or sigmoid if the model is multi-label.

        A calibrated model divides the logits by the temperature of the task first.

        Raises:
            XViTError: NaN or infinite logits.
        """
        if not logits.isfinite().all():
            raise XViTError("the model's logits are NaN or infinite: weights too large for its precision, or damaged")
        values = logits.float()
        if task in self.calibration:
            values = values / self.calibration[task].temperature
        return values.sigmoid() if self.config.multi_label else values.softmax(dim=-1)

    def forward_features(self, pixel_values: Tensor) -> Features:
        """Features of clips before the classifier; see `forward` for the input."""
        tokens, frames = self.pool(self.encode(pixel_values))
        return Features(tokens=tokens, frames=frames, clip_embedding=self.temporal_head(frames))

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T, N, D) before the first block, and rotary positions if the backbone has them (`Eva`)."""
        self.check_input(pixel_values)
        B, T, _, height, width = pixel_values.shape
        backbone = self.backbone
        T //= self.config.tubelet_size  # from here on a tubelet is a frame, its frames stacked along the channels
        images = pixel_values.reshape(B * T, -1, height, width)
        embedded = backbone._pos_embed(backbone.patch_embed(images))
        x, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        x = x.unflatten(0, (B, T))  # (B, T, N, D)
        if self.temporal_position is not None:
            x = x + self.temporal_position(T).unsqueeze(2)
        x = backbone.norm_pre(x)
        if self.config.summary_tokens > 1:
            for attention in self.attention_layers:  # timm's blocks pass on tokens only, not their grid
                attention.grid = backbone.patch_embed.dynamic_feat_size((height, width))
        return x, rope

    def encode(self, pixel_values: Tensor, *, class_token_only: bool = False) -> Tensor:
        """Tokens (B, T, N, D) after all blocks; with `class_token_only` each frame's first one, (B, T, 1, D)."""
        backbone, tome_r = self.backbone, self.config.tome_r
        x, rope = self.embed(pixel_values)  # in here, so that no caller keeps these tokens alive
        sizes = None
        for layer, block in enumerate(backbone.blocks):
            kwargs = self.block_kwargs(layer, rope, class_token_only=class_token_only)
            if sizes is not None:
                kwargs["attn_mask"] = sizes.log()
            if backbone.grad_checkpointing and torch.is_grad_enabled():
                x = recompute_in_backward(block, x, use_reentrant=False, **kwargs)
            else:
                x = block(x, **kwargs)
            if tome_r and layer + 1 < len(backbone.blocks):
                x, sizes = merge_similar_tokens(x, sizes, tome_r, num_prefix_tokens=backbone.num_prefix_tokens)
        return x

    def block_kwargs(self, layer: int, rope: Tensor | None, *, class_token_only: bool = False) -> dict[str, Any]:
        """Extra keyword arguments for one block.

        Args:
            layer: index of the block.
            rope: the rotary positions of the patches; None if the backbone has none.
            class_token_only: whether only the class tokens of the last block are needed.
        """
        # No model with rotary positions ends in a ClassTokenBlock, so `rope` can be left out.
        if class_token_only and layer + 1 == len(self.backbone.blocks):
            return {"class_token_only": True}
        if rope is None:
            return {}
        return {"rope": rope[layer] if self.backbone.rope_mixed else rope}

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised tokens of the last block's output x (B, T, N or 1, D), and one vector per frame, (B, T, D)."""
        tokens = self.backbone.norm(x)
        frames = self.backbone.forward_head(tokens.flatten(0, 1), pre_logits=True).unflatten(0, x.shape[:2])
        if self.frame_projection is not None:
            frames = self.frame_projection(frames)
        return tokens, frames

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass: less memory for about a third more time.

        Args:
            enable: False keeps the activations, as at first.
        """
        self.backbone.set_grad_checkpointing(enable)

    # Not huggingface_hub's PyTorchModelHubMixin: it writes file by file, so that a killed process leaves half a
    # checkpoint, and builds the model before anything in the files is checked.
    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu"
    ) -> "XViT":
        """Load a trained model, in eval mode, with its clip spec, class names and provenance. Never executes code.

        Args:
            source: a directory written by `save_pretrained` or by training, hf://owner/name on the Hugging Face Hub, or
                the name of a model that comes with xvit: "motion".
            revision: branch, tag or commit of the Hub repository.
            device: where the model goes.

        Raises:
            XViTError: no such directory or repository, not a checkpoint, a config that is damaged or of another
                version of xvit, missing, unexpected or damaged tensors, a device that is not available.
        """
        target = resolve_device(device)
        directory = find_checkpoint(source, revision)
        metadata = read_metadata(directory)
        check_num_layers(directory, metadata.model)
        try:
            with torch.device("meta"):  # spends no time on initial weights, which are replaced at once
                model = cls(metadata.model)
            shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
            tensors = read_tensors(directory, shapes)
            if next(model.buffers(), None) is not None:  # rotary frequencies and the like, which are not in the file
                model = cls(metadata.model)
        except XViTError as error:
            where = "" if str(directory) in str(error) else f"{directory / CONFIG}: "
            raise XViTError(f"{where}{error}") from None
        except Exception as error:  # torch and timm raise many kinds on hostile settings
            reason = one_line(error, name=True)
            raise XViTError(f"{directory / CONFIG}: cannot build the model it describes ({reason})") from None
        model.load_state_dict(tensors, assign=True)
        model.clip_spec, model.class_names = metadata.clip_spec, metadata.class_names
        model.provenance = metadata.provenance
        model.calibration = drop_stale_calibration(metadata, tensors, directory).calibration
        limit_threads(model.approximate_macs)
        return model.to(target).eval()

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors, config.json, preprocessor_config.json and a model card, atomically.

        Args:
            directory: replaced if it holds an older checkpoint.

        Raises:
            XViTError: class names that do not match the number of classes; a directory that holds other files.
        """
        write_checkpoint(directory, self.checkpoint_metadata, self.state_dict())

    @property
    def checkpoint_metadata(self) -> CheckpointMetadata:
        """What a checkpoint's config.json says about the model."""
        return CheckpointMetadata(
            model=self.config,
            clip_spec=self.clip_spec,
            class_names=self.class_names,
            provenance=self.provenance,
            calibration=self.calibration,
        )

    def check_input(self, pixel_values: Tensor) -> None:
        """Raise `XViTError` unless these are clips (B, T, C, H, W) that the model can embed."""
        embed, tubelet = self.backbone.patch_embed, self.config.tubelet_size
        check_pixel_values(pixel_values, channels=self.in_chans, dtype=next(self.parameters()).dtype)
        shape = tuple(pixel_values.shape)
        if shape[1] % tubelet:
            raise XViTError(f"pixel_values of shape {shape}: expected a multiple of tubelet_size={tubelet} frames")
        # Pixels per patch, of hybrid backbones too.
        rows, columns = cast(tuple[int, int], embed.feat_ratio(as_scalar=False))
        if not embed.dynamic_img_pad and (shape[3] % rows or shape[4] % columns):
            raise XViTError(
                f"pixel_values of {shape[3]}x{shape[4]} pixels: expected multiples of the patch size, {rows}x{columns}"
            )


def check_pixel_values(pixel_values: Tensor, *, channels: int, dtype: torch.dtype) -> None:
    """Raise `XViTError` unless clips are (B, T, C, H, W), not empty, of `dtype` if autocast does not convert them.

    Only shape and dtype are looked at, so compiled and exported models contain none of it.
    """
    if not isinstance(pixel_values, Tensor):
        raise XViTError(f"pixel_values: {type(pixel_values).__name__}: expected a torch tensor (B, T, C, H, W)")
    shape, given = tuple(pixel_values.shape), pixel_values.dtype
    if not given.is_floating_point:
        normalize = "xvit.data.transforms.normalize(pixels, model.clip_spec)"
        raise XViTError(f"pixel_values of {given}: expected normalised floats; for uint8 pixels they are {normalize}")
    if given != dtype and (given == torch.float64 or not torch.is_autocast_enabled(pixel_values.device.type)):
        raise XViTError(f"pixel_values of {given}: expected {dtype}, the type of the weights: pixel_values.to({dtype})")
    if len(shape) != 5:
        hint = ": pixel_values[None] adds B, pixel_values[:, None] adds T" if len(shape) == 4 else ""
        raise XViTError(f"pixel_values of shape {shape}: expected 5 dimensions (B, T, C, H, W){hint}")
    if shape[2] != channels:
        hint = ""
        if shape[1] == channels:
            hint = "; if it is (B, C, T, H, W): pixel_values.transpose(1, 2)"
        elif shape[4] == channels:
            hint = "; if it is (B, T, H, W, C): pixel_values.permute(0, 1, 4, 2, 3)"
        raise XViTError(f"pixel_values of shape {shape}: expected {channels} channels in the third dimension (C){hint}")
    if shape[0] < 1:
        raise XViTError(f"pixel_values of shape {shape}: an empty batch; expected at least 1 clip (B)")
    if shape[1] < 1:
        raise XViTError(f"pixel_values of shape {shape}: a clip needs at least 1 frame (T)")
    if shape[3] < 1 or shape[4] < 1:
        raise XViTError(f"pixel_values of shape {shape}: frames without pixels (H, W)")
