"""`create_model`: build a model and load its initial weights."""

from pathlib import Path
from typing import Any

from xvit.config import AttentionScheme, ClipSpec, InitConfig, model_config
from xvit.models.backbone import Backbone, infer_backbone_config, resolve_clip_spec
from xvit.models.pretrained import load_initial_weights, load_tensors
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError


def create_model(
    backbone: str | Backbone,
    *,
    num_classes: int | dict[str, int],
    num_frames: int = 8,
    pretrained: bool = False,
    checkpoint_path: str | Path = "",
    attention: AttentionScheme = "mixing",
    **options: Any,
) -> XViT:
    """Turn an image Vision Transformer into a video transformer. The log says what became of initial weights.

    Args:
        backbone: name of a timm `VisionTransformer` or `Eva` model, such as vit_base_patch16_224, or a model built by
            timm, whose weights are copied.
        num_classes: number of classes; {"verb": 97, "noun": 300} for several tasks; 0 for features only.
        num_frames: T, frames per clip.
        pretrained: start from timm's image weights.
        checkpoint_path: start from a file of image weights, or the directory of another XViT; see `InitConfig`.
        attention: mixing, spatial, local, joint or divided.
        options: other fields of `ModelConfig` and `AdvancedConfig`: window, mix_ratio, causal, temporal_head, ...

    Raises:
        XViTError: a wrong name or value, with the choices; weights that are not there or do not fit.
    """
    image_model = None if isinstance(backbone, str) else backbone
    if image_model is not None:
        if pretrained or checkpoint_path:
            raise XViTError("pretrained, checkpoint_path: not together with a backbone that is already built")
        backbone, options["backbone_kwargs"] = infer_backbone_config(image_model, options.get("backbone_kwargs", {}))
    config = model_config(
        backbone=str(backbone), num_classes=num_classes, num_frames=num_frames, attention=attention, **options
    )
    init = InitConfig(pretrained=pretrained, checkpoint_path=str(checkpoint_path))
    model = XViT(config)
    if image_model is not None:
        load_tensors(model, image_model.state_dict(), {}, source=f"given {backbone}")
        # The given model may have a data config of its own.
        model.clip_spec = resolve_clip_spec(ClipSpec(num_frames=num_frames), image_model)
    elif pretrained or checkpoint_path:
        load_initial_weights(model, init)
    return model
