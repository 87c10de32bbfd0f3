"""xvit info [--backbone NAME] [--num-frames T] [...] | --checkpoint DIR | --list-backbones

Show the parameters of a model, its exact number of multiply-adds (MACs) and its input. The weights are not
built, so this takes seconds for any model. The literature on video models calls multiply-adds FLOPs, and sums
them over the test views.

examples:
  xvit info --backbone vit_base_patch16_224 --num-frames 8
  xvit info --backbone vit_small_patch14_reg4_dinov2 --attention joint --num-frames 16
  xvit info --checkpoint run/best
  xvit info --list-backbones
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import TRAINED_MODEL, CommandParser, build, parse_args
from xvit.config import SINGLE_TASK, ModelConfig, as_task_dict, stored_clip_spec
from xvit.utils.checkpoint_path import check_checkpoint
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

# (backbone without its tag, frames) -> multiply-adds of 1 x 3 views of 224 px with mixing, as reported in the paper.
PAPER_MACS = {
    ("vit_base_patch16_224", 8): 425e9,
    ("vit_base_patch16_224", 16): 850e9,
    ("vit_base_patch32_224", 8): 95e9,
    ("vit_large_patch32_224", 8): 327e9,
}


def add_options(parser: CommandParser) -> None:
    parser.add("--checkpoint DIR", str | None, f"instead, {TRAINED_MODEL}", check=check_checkpoint)
    parser.add_switch("--list-backbones", "list the names that --backbone accepts")
    parser.add_class_arguments(ModelConfig)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options; `.model` is the resulting `ModelConfig`."""
    args = parser.instantiate(parse_args(parser, argv))
    args.model = build(ModelConfig, args)
    return args


def run(args: Namespace) -> int:
    """Print the model's numbers, or the names of the backbones."""
    if args.list_backbones:
        names = list_backbones(quiet=args.json)
        return terminal.finish(args, names, *names)
    facts = _checkpoint_facts(args.checkpoint) if args.checkpoint else _model_facts(_build_on_meta(args.model))
    explanation = "MACs: exact multiply-adds, the literature's FLOPs of video models. 1x3 views: 1 clip, 3 crops."
    return terminal.finish(args, facts, terminal.key_values(_describe(facts)), explanation)


def list_backbones(*, quiet: bool = False) -> list[str]:
    """Names of the timm models that can be a backbone. Takes seconds: each is built with one layer and no weights."""
    import timm

    candidates = timm.list_models(module=["vision_transformer", "eva"])
    names = []
    with terminal.progress_bar("building timm models", quiet=quiet) as update:
        for done, name in enumerate(candidates, start=1):
            with suppress(XViTError):
                _build_on_meta(ModelConfig(backbone=name, backbone_kwargs={"depth": 1}))
                names.append(name)
            update(done, len(candidates))
    return names


def _build_on_meta(config: ModelConfig) -> "XViT":
    """A model whose parameters have shapes, but no values."""
    import torch

    from xvit.models.xvit import XViT

    with torch.device("meta"):
        return XViT(config)


def _checkpoint_facts(directory: str) -> dict[str, Any]:
    from xvit.config import to_dict
    from xvit.models.xvit import XViT

    model = XViT.from_pretrained(directory)
    return {
        "checkpoint": directory,
        **_model_facts(model, model.clip_spec.image_size),
        "class_names": model.class_names,
        "clip_spec": to_dict(model.clip_spec),
        "provenance": dict(model.provenance),
        **({"calibration": model.checkpoint_metadata.to_dict()["calibration"]} if model.calibration else {}),
    }


def _model_facts(model: "XViT", image_size: int | None = None) -> dict[str, Any]:
    from xvit.models.profiling import count_macs

    config, patch_embed = model.config, model.backbone.patch_embed
    height, width = (image_size, image_size) if image_size else patch_embed.img_size
    rows, columns = patch_embed.dynamic_feat_size((height, width))
    macs = count_macs(model, image_size=image_size)
    attention = {
        "mixing": f"mixing, window {config.window}, {100 * config.mix_ratio:g} % mixed",
        "local": f"local, window {config.window}",
    }.get(config.attention, config.attention)
    facts = {
        "backbone": config.backbone,
        "attention": attention,
        "temporal_head": config.temporal_head,
        "num_classes": config.num_classes,
        "input": [config.num_frames, model.in_chans, height, width],
        "tubelet_size": config.tubelet_size,
        "tome_r": config.tome_r,
        "tokens_per_frame": rows * columns + model.backbone.num_prefix_tokens,
        "prefix_tokens": model.backbone.num_prefix_tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs_per_view": macs,
        "macs_1x3_views": 3 * macs,
    }
    paper = PAPER_MACS.get((config.backbone.split(".")[0], config.num_frames))
    as_in_paper = (config.attention, config.summary_tokens, height, width) == ("mixing", 0, 224, 224)
    as_in_paper = as_in_paper and config.tubelet_size == 1 and not config.tome_r and not config.backbone_kwargs
    if paper and as_in_paper:
        facts["macs_1x3_views_all_tokens"] = 3 * count_macs(model, image_size=image_size, all_tokens=True)
        facts["paper_macs_1x3_views"] = paper
    return facts


def _describe(facts: dict[str, Any]) -> dict[str, object]:
    frames, channels, height, width = facts["input"]
    tokens, prefix = facts["tokens_per_frame"], facts["prefix_tokens"]
    times = f"{frames} frames" if facts["tubelet_size"] == 1 else f"{frames // facts['tubelet_size']} tubelets"
    merging = f", {facts['tome_r']} fewer after each layer" if facts["tome_r"] else ""
    comparison = ""
    if paper := facts.get("paper_macs_1x3_views"):
        all_tokens = _format_count(facts["macs_1x3_views_all_tokens"])
        comparison = f"   (paper: {_format_count(paper)}; {all_tokens} with all tokens of the last layer)"
    rows = {
        "checkpoint": facts.get("checkpoint"),
        "backbone": facts["backbone"],
        "attention": facts["attention"],
        "temporal head": facts["temporal_head"],
        "classes": facts["num_classes"] or "none: features only",
        "pixel_values": f"(B, {frames}, {channels}, {height}, {width})",
        "tokens": f"{times} x {tokens} ({tokens - prefix} patches + {prefix} prefix tokens){merging}",
        "parameters": _format_count(facts["parameters"]),
        "MACs, one view": _format_count(facts["macs_per_view"]),
        "MACs, 1x3 views": _format_count(facts["macs_1x3_views"]) + comparison,
    }
    if clip := facts.get("clip_spec"):
        sampling = stored_clip_spec(clip, "").sampling_text
        rows["clip"] = f"{clip['num_frames']} frames, {sampling}, {clip['image_size']} px"
        for task, names in as_task_dict(facts["class_names"]).items():
            more = f", ... ({len(names)})" if len(names) > 6 else ""
            rows["class names" if task == SINGLE_TASK else task] = ", ".join(names[:6]) + more
        rows["calibration"] = (
            "; ".join(_describe_calibration(facts["calibration"])) if "calibration" in facts else "none"
        )
    return rows


def _describe_calibration(stored: dict[str, Any]) -> Iterator[str]:
    for task, values in ({"": stored} if "temperature" in stored else stored).items():
        numbers = f"temperature {values['temperature']:.3g}, energy threshold {values['energy_threshold']:.3g}"
        measured = f"keeps {100 * values['keep']:g} % of {values['videos']} videos"
        yield f"{task}{': ' if task else ''}{numbers}, {measured}"


def _format_count(number: float) -> str:
    return f"{number / 1e9:.1f}e9" if number >= 1e9 else f"{number / 1e6:.2f}e6"
