"""XViT = a timm Vision Transformer + an attention scheme over its frames + a temporal head.

B clips, T frames, S patches and N tokens a frame, D channels

pixel_values ─▶ patches, class token, positions ─▶ + temporal position ─▶ L blocks, their attention a scheme
(B, T, C, H, W)        timm, frame by frame          (B, T, N, D)            (B, T, N, D)
             ─▶ timm's own pooling, one vector a frame ─▶ Temporal Attention or mean ─▶ classifier ─▶ logits
                              (B, T, D)                          (B, D)                           (B, classes)
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import torch
import torch.utils.checkpoint
from huggingface_hub import HfApi
from torch import Tensor, nn

from xvit.checkpoint import format as checkpoint
from xvit.config import Attention, ClipSpec, Labels, ModelConfig, to_dict
from xvit.models.attention import DividedAttention, LocalAttention, MixingAttention, SpatialAttention
from xvit.models.backbone import (
    Backbone,
    LastBlock,
    build_backbone,
    check_can_merge,
    complete_clip,
    config_of,
    mixing_layers,
)
from xvit.models.pretrained import LoadReport, load_start, load_tensors
from xvit.models.streaming import Stream
from xvit.models.temporal import Classifier, FrameProjection, TemporalAttention, TemporalMean, TemporalPosition
from xvit.models.token_merging import merge_alike
from xvit.utils.devices import resolve_device
from xvit.utils.errors import XViTError, did_you_mean


class Features(NamedTuple):
    """What the model knows of a clip before the classifier."""

    tokens: Tensor  # (B, T, N, D), after the backbone's last norm, prefix tokens first
    # (B, T, D), what timm's own pooling gives each frame (and the frame projection, if there is one); T / 2 of tubelets
    frames: Tensor
    clip: Tensor  # (B, D)


class XViT(nn.Module):
    """Video transformer over any timm `VisionTransformer` (paper, section 3).

    Args:
        config: backbone, scheme, head; see `ModelConfig`.

    Attributes:
        class_token_only: leave out what nobody reads: of the last block's tokens, all but the class tokens, where those
            alone are pooled. The same logits for less work, so it is on wherever it can be; `forward_features`, which
            gives all tokens, does not look at it.
        clip: how a video becomes `pixel_values`: at first T segments, the rest as the image model was trained.
        labels: names of the classes, a dict of such lists for several tasks; at first their numbers.
        provenance: what is known of where the weights come from, plain values; kept in checkpoints.
        load_report: what became of the weights that `config` starts from; None for none.

    Raises:
        XViTError: an unknown backbone, one whose blocks take no attention scheme, settings that do not go together,
            weights to start from that are not there or do not fit.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.class_token_only = isinstance(self.backbone.blocks[-1], LastBlock)
        self._configure_attention()
        dim, T = self.backbone.num_features, config.num_frames // config.tubelet
        self.temporal_position = TemporalPosition(T, dim) if config.temporal_position == "input" else None
        if config.temporal_head == "attention":
            self.temporal_head: nn.Module = TemporalAttention(
                dim,
                num_heads=self.attentions[0].num_heads,
                layers=config.temporal_layers,
                num_frames=T if config.temporal_position == "head" else None,
            )
        else:
            self.temporal_head = TemporalMean()
        self.frame_projection = FrameProjection(dim) if config.frame_projection else None
        self.classifier = Classifier(dim, config.tasks, hidden=config.classifier_hidden, dropout=config.dropout)
        self.clip: ClipSpec = complete_clip(ClipSpec(num_frames=config.num_frames), self.backbone)
        numbers = {task: [str(number) for number in range(classes)] for task, classes in config.tasks.items()}
        self.labels: Labels = numbers[None] if None in numbers else {str(task): n for task, n in numbers.items()}
        self.provenance: Mapping[str, Any] = {}
        starts = config.pretrained or config.checkpoint_path
        self.load_report: LoadReport | None = load_start(self, config) if starts else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def precision(self) -> str:
        """Of the weights, such as float32."""
        return str(next(self.parameters()).dtype).removeprefix("torch.")

    @property
    def channels(self) -> int:
        """C, colours of a frame."""
        return int(self.backbone.in_chans) // self.config.tubelet

    @property
    def attentions(self) -> list[SpatialAttention]:
        """The attention modules of the backbone, first layer first."""
        return [module for module in self.backbone.modules() if isinstance(module, SpatialAttention)]

    def forward(self, pixel_values: Tensor) -> Tensor | dict[str, Tensor]:
        """Classify clips.

        Args:
            pixel_values: (B, T, C, H, W), normalised as the `ClipSpec` says. Any T; any H and W that are whole
                numbers of patches.

        Returns:
            Logits (B, classes); for several tasks a dict of them.

        Raises:
            XViTError: a wrong shape.
        """
        x = self.encode(pixel_values, class_token_only=self.class_token_only)
        logits: Tensor | dict[str, Tensor] = self.classifier(self.temporal_head(self.pool(x)[1]))
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Scores of classes in [0, 1], float32: softmax, which adds up to 1, or sigmoid of a multi-label model."""
        return logits.float().sigmoid() if self.config.multi_label else logits.float().softmax(dim=-1)

    def forward_features(self, pixel_values: Tensor) -> Features:
        """Features of clips before the classifier; see `forward` for the input."""
        tokens, frames = self.pool(self.encode(pixel_values))
        return Features(tokens=tokens, frames=frames, clip=self.temporal_head(frames))

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T, N, D) before the first block, and rotary positions where the backbone has them (`Eva`)."""
        self._check_input(pixel_values)
        B, T, _, height, width = pixel_values.shape
        backbone = self.backbone
        T //= self.config.tubelet  # from here on a tubelet is a frame, its pixels one above the other as channels
        pictures = pixel_values.reshape(B * T, -1, height, width)
        placed = backbone._pos_embed(backbone.patch_embed(pictures))
        x, rope = placed if isinstance(placed, tuple) else (placed, None)
        x = x.unflatten(0, (B, T))  # (B, T, N, D)
        if self.temporal_position is not None:
            x = x + self.temporal_position(T).unsqueeze(2)
        x = backbone.norm_pre(x)
        if self.config.summary_tokens > 1:
            for attention in self.attentions:  # timm's blocks pass on tokens alone, not where they lie
                attention.grid = backbone.patch_embed.dynamic_feat_size((height, width))
        return x, rope

    def encode(self, pixel_values: Tensor, *, class_token_only: bool = False) -> Tensor:
        """Tokens (B, T, N, D) after all blocks; `class_token_only` gives each frame's first alone, (B, T, 1, D)."""
        backbone, merged = self.backbone, self.config.merge_tokens
        x, rope = self.embed(pixel_values)  # here, where nobody else keeps what the first block is done with
        sizes = None
        for layer, block in enumerate(backbone.blocks):
            more = self.places(layer, rope, class_token_only=class_token_only)
            if sizes is not None:
                more["attn_mask"] = sizes.log()
            if backbone.grad_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False, **more)
            else:
                x = block(x, **more)
            if merged and layer + 1 < len(backbone.blocks):
                x, sizes = merge_alike(x, sizes, merged, num_prefix_tokens=backbone.num_prefix_tokens)
        return x

    def places(self, layer: int, rope: Tensor | None, *, class_token_only: bool = False) -> dict[str, Any]:
        """What a block takes beside its tokens: the rotary positions, of each layer's own in some models; in the last
        one, that the class tokens alone are wanted.
        """
        if class_token_only and layer + 1 == len(self.backbone.blocks):
            return {"class_token_only": True}
        if rope is None:
            return {}
        return {"rope": rope[layer] if self.backbone.rope_mixed else rope}

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, N, D) after the last block: normalised, and one vector (B, T, D) a frame of them."""
        tokens = self.backbone.norm(x)
        frames = self.backbone.forward_head(tokens.flatten(0, 1), pre_logits=True).unflatten(0, x.shape[:2])
        if self.frame_projection is not None:
            frames = self.frame_projection(frames)
        return tokens, frames

    def stream(self, *, every: int = 1) -> Stream:
        """Run the model on endless video, a frame at a time: see `Stream`.

        Args:
            every: answer each frame, or each second, third, ... one.

        Raises:
            XViTError: a model that cannot be streamed exactly, with what to take instead.
        """
        return Stream(self, every=every)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, device: str | torch.device = "cpu"
    ) -> "XViT":
        """Read a trained model, in eval mode, with its clip, labels and provenance. Runs nothing that is in the files.

        Args:
            source: a directory written by `save_pretrained` or by training, or an `owner/name` of the Hugging Face Hub.
            revision: branch, tag or commit of the Hub's repository.
            device: where the model goes.

        Raises:
            XViTError: no such directory or repository, not a checkpoint, a config that is not ours or newer than this
                version, tensors missing, unexpected or of a wrong shape, a damaged file, a device that is not there.
        """
        place = resolve_device(device)
        directory = checkpoint.find(source, revision)
        description = checkpoint.read_description(directory)
        try:
            with torch.device("meta"):  # no time spent on initial weights that are replaced at once
                model = cls(description.model)
            shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
            tensors = checkpoint.read_tensors(directory, shapes)
            if len(dict(model.named_buffers())) > 0:  # rotary frequencies and the like, which are not in the file
                model = cls(description.model)
        except XViTError as error:
            where = "" if str(directory) in str(error) else f"{directory / checkpoint.CONFIG}: "
            raise XViTError(f"{where}{error}") from None
        except Exception as error:  # of torch and timm, where hostile settings lead
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise XViTError(f"{directory / checkpoint.CONFIG}: no model can be built of it ({reason})") from None
        model.load_state_dict(tensors, assign=True)
        model.clip, model.labels, model.provenance = description.clip, description.labels, description.provenance
        return model.to(place).eval()

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors, config.json and README.md, a model card, replacing an older directory whole.

        Raises:
            XViTError: labels that do not fit the classes.
        """
        checkpoint.write(directory, self.description, self.state_dict())

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, message: str = "Upload an XViT") -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub, where one must be logged in (`hf auth login`).

        Args:
            repo_id: `owner/name`; made if it is not there.
            private: whether a new repository is seen by its owner alone; the account's default if unset.
            message: of the commit.

        Returns:
            The address of the commit.
        """
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            commit = api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model", commit_message=message)
        return str(commit.commit_url)

    def fingerprint(self) -> str:
        """Hash of the settings and weights, 16 letters, on whatever device; not of where the weights came from."""
        settings = to_dict(self.config) | {"pretrained": False, "checkpoint_path": ""}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def description(self) -> checkpoint.Description:
        """What a checkpoint says of the model."""
        return checkpoint.Description(model=self.config, clip=self.clip, labels=self.labels, provenance=self.provenance)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass: less memory for about a third more time."""
        self.backbone.set_grad_checkpointing(enable)

    def macs(self, *, num_frames: int | None = None, image_size: int | None = None, all_tokens: bool = False) -> int:
        """Exact multiply-adds of one clip through the model (what the literature calls FLOPs; 1 MAC = 2 FLOPs).

        Args:
            num_frames: T; the config's by default.
            image_size: H = W in pixels; the backbone's by default.
            all_tokens: count the last layer in full, as the paper does, where `class_token_only` spares most of it.
        """
        from torch.utils.flop_counter import FlopCounterMode

        size = (image_size, image_size) if image_size else self.backbone.patch_embed.img_size
        clip = torch.empty(1, num_frames or self.config.num_frames, self.channels, *size, device="meta")
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        on_meta = {name: tensor.detach().to("meta", torch.float32) for name, tensor in tensors.items()}
        training, class_token_only = self.training, self.class_token_only
        self.class_token_only = class_token_only and not all_tokens
        self.eval()  # without dropout, and on the meta device: CPU attention kernels go uncounted
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                torch.func.functional_call(self, on_meta, (clip,))
        finally:
            self.train(training)
            self.class_token_only = class_token_only
        return int(counter.get_total_flops()) // 2

    def _configure_attention(self) -> None:
        config = self.config
        if config.summary_tokens and config.attention in ("local", "joint"):
            raise XViTError(
                f"summary_tokens={config.summary_tokens}: not with attention={config.attention!r}, whose queries see "
                "other frames' tokens themselves"
            )
        if config.merge_tokens:
            check_can_merge(config, self.backbone)
        mixed = mixing_layers(config.layers, len(self.backbone.blocks))
        for layer, block in enumerate(self.backbone.blocks):
            for attention in block.modules():
                if not isinstance(attention, SpatialAttention):
                    continue
                attention.summary_tokens = config.summary_tokens
                attention.causal = config.direction == "causal"
                attention.summary_frames = config.num_frames // config.tubelet
                attention.num_prefix_tokens = self.backbone.num_prefix_tokens
                if isinstance(attention, MixingAttention):
                    attention.configure(
                        window=config.window if layer in mixed else 0,
                        fraction=config.mixed_fraction,
                        mixed=config.mixed,
                        boundary_only=config.boundary_only,
                        direction=config.direction,
                        grouping=config.grouping,
                        edges=config.edges,
                        segment_frames=config.segment_frames // config.tubelet,
                    )
                elif isinstance(attention, LocalAttention):
                    attention.window = config.window
                elif isinstance(attention, DividedAttention):
                    attention.configure()

    def _check_input(self, pixel_values: Tensor) -> None:
        shape = tuple(pixel_values.shape)
        if len(shape) != 5:
            raise XViTError(f"pixel_values of shape {shape}: expected 5 dimensions (B, T, C, H, W)")
        embed, channels, tubelet = self.backbone.patch_embed, self.channels, self.config.tubelet
        if shape[2] != channels:
            raise XViTError(f"pixel_values of shape {shape}: expected {channels} channels in the third dimension (C)")
        if shape[1] < 1:
            raise XViTError(f"pixel_values of shape {shape}: a clip needs at least 1 frame")
        if shape[1] % tubelet:
            raise XViTError(f"pixel_values of shape {shape}: expected whole tubelets of {tubelet} frames")
        rows, columns = cast(
            tuple[int, int], embed.feat_ratio(as_scalar=False)
        )  # pixels a patch, of hybrid backbones too
        if not embed.dynamic_img_pad and (shape[3] % rows or shape[4] % columns):
            raise XViTError(f"pixel_values of {shape[3]}x{shape[4]} pixels: not whole patches of {rows}x{columns}")


def create_model(
    backbone: str | Backbone,
    *,
    num_classes: int | dict[str, int],
    num_frames: int = 8,
    pretrained: bool = False,
    checkpoint_path: str | Path = "",
    attention: Attention = "mixing",
    **options: Any,
) -> XViT:
    """Turn an image Vision Transformer into a video transformer.

    Args:
        backbone: name of a timm `VisionTransformer`, such as vit_base_patch16_224, or a model that timm has built, to
            start from its weights (they are copied).
        num_classes: number of classes; {"verb": 97, "noun": 300} for several tasks; 0 for features only.
        num_frames: T, frames a clip.
        pretrained: start from timm's image weights.
        checkpoint_path: start from a file of image weights or the directory of another XViT; see `ModelConfig`.
        attention: mixing, spatial, local, joint or divided.
        options: the other fields of `ModelConfig`: window, mixed_fraction, mixed, layers, edges, temporal_head, ...

    Raises:
        XViTError: a wrong name or value, with the choices.
    """
    known = ModelConfig.__dataclass_fields__
    for name in options:
        if name not in known:
            raise XViTError(f"unknown option {name!r}.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}")
    built = None if isinstance(backbone, str) else backbone
    if built is not None:
        if pretrained or checkpoint_path:
            raise XViTError("pretrained, checkpoint_path: a model that is built brings its weights")
        backbone, options["backbone_kwargs"] = config_of(built, options.get("backbone_kwargs", {}))
    config = ModelConfig(
        backbone=str(backbone),
        num_classes=num_classes,
        num_frames=num_frames,
        pretrained=pretrained,
        checkpoint_path=str(checkpoint_path),
        attention=attention,
        **options,
    )
    model = XViT(config)
    if built is not None:
        model.load_report = load_tensors(model, config.backbone, built.state_dict(), {}, source=f"given {backbone}")
        model.clip = complete_clip(ClipSpec(num_frames=num_frames), built)  # which may have a data config of its own
    return model
