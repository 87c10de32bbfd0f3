"""`xvit info`: what a model takes, holds and costs, without spending time on its weights."""

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import ModelConfig
from xvit.models.profiling import count_macs

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

# (backbone without its tag, frames): multiply-adds over 1 x 3 views of 224 px with mixing, as the paper gives them.
PAPER_MACS = {
    ("vit_base_patch16_224", 8): 425e9,
    ("vit_base_patch16_224", 16): 850e9,
    ("vit_base_patch32_224", 8): 95e9,
    ("vit_large_patch32_224", 8): 327e9,
}


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "info",
        "[--backbone NAME] [--num-frames T] [...] | --checkpoint DIR | --backbones",
        "Show a model's parameters, its exact multiply-adds (MACs) and its input.\n"
        "What the literature calls FLOPs of a video model are such multiply-adds, summed over the test views.",
        "xvit info --backbone vit_base_patch16_224 --num-frames 8\n"
        "xvit info --backbone vit_small_patch14_reg4_dinov2 --attention joint --num-frames 16\n"
        "xvit info --checkpoint run/best\n"
        "xvit info --backbones",
    )
    made.add_argument("--checkpoint", metavar="DIR", type=str | None, default=None, help="a trained model instead")
    made.add_argument("--backbones", action="store_true", help="list the names that --backbone takes")
    add_json(made)
    made.add_class_arguments(ModelConfig, skip={"pretrained"})
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    made = parser()
    args = parse_words(made, argv)
    names = [name for name in ModelConfig.__dataclass_fields__ if name != "pretrained"]
    args.model = ModelConfig(**{name: args[name] for name in names})
    return args


def run(args: Namespace) -> int:
    """Print the model's numbers."""
    if args.backbones:
        names = list_backbones(quiet=args.json)
        if args.json:
            terminal.print_json(names)
        else:
            print("\n".join(names))
        return SUCCESS
    facts = _checkpoint_facts(args.checkpoint) if args.checkpoint else _facts(_on_meta(args.model))
    if args.json:
        terminal.print_json(facts)
    else:
        _show(facts)
    return SUCCESS


def list_backbones(*, quiet: bool = False) -> list[str]:
    """The timm models that take a scheme. Each is built with one layer and no weights: a few seconds for all."""
    import timm

    from xvit.utils.errors import XViTError

    candidates = timm.list_models(module=["vision_transformer", "eva"])
    names = []
    with terminal.counter("trying timm's models", quiet=quiet) as advance:
        for done, name in enumerate(candidates, start=1):
            try:
                _on_meta(ModelConfig(backbone=name, backbone_kwargs={"depth": 1}))
                names.append(name)
            except XViTError:
                pass
            advance(done, len(candidates))
    return names


def _on_meta(config: ModelConfig) -> "XViT":
    import torch

    from xvit.models.xvit import XViT

    with torch.device("meta"):  # shapes without numbers
        return XViT(config)


def _checkpoint_facts(directory: str) -> dict[str, Any]:
    from xvit.config import to_dict
    from xvit.models.xvit import XViT

    model = XViT.from_pretrained(directory)
    more = {"labels": model.class_names, "clip": to_dict(model.clip_spec), "provenance": dict(model.provenance)}
    return {"checkpoint": directory} | _facts(model, model.clip_spec.image_size) | more


def _facts(model: "XViT", image_size: int | None = None) -> dict[str, Any]:
    config, embed = model.config, model.backbone.patch_embed
    height, width = (image_size, image_size) if image_size else embed.img_size
    rows, columns = embed.dynamic_feat_size((height, width))
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
    plain = (config.attention, config.summary_tokens, height, width) == ("mixing", 0, 224, 224)
    plain = plain and config.tubelet_size == 1 and not config.tome_r
    if paper and plain and not config.backbone_kwargs:
        facts["macs_1x3_views_all_tokens"] = 3 * count_macs(model, image_size=image_size, all_tokens=True)
        facts["paper_macs_1x3_views"] = paper
    return facts


def _show(facts: dict[str, Any]) -> None:
    frames, channels, height, width = facts["input"]
    tokens, prefix = facts["tokens_per_frame"], facts["prefix_tokens"]
    places = f"{frames} frames" if facts["tubelet_size"] == 1 else f"{frames // facts['tubelet']} tubelets"
    merging = f", {facts['tome_r']} fewer after each layer" if facts["tome_r"] else ""
    paper = facts.get("paper_macs_1x3_views")
    beside = ""
    if paper:
        whole = _count(facts["macs_1x3_views_all_tokens"])
        beside = f"   (the paper gives {_count(paper)}; {whole} with all tokens of the last layer)"
    rows = {
        "checkpoint": facts.get("checkpoint"),
        "backbone": facts["backbone"],
        "attention": facts["attention"],
        "temporal head": facts["temporal_head"],
        "classes": facts["num_classes"] or "none: features only",
        "pixel_values": f"(B, {frames}, {channels}, {height}, {width})",
        "tokens": f"{places} x {tokens} ({tokens - prefix} patches + {prefix} prefix){merging}",
        "parameters": _count(facts["parameters"]),
        "MACs, one view": _count(facts["macs_per_view"]),
        "MACs, 1x3 views": _count(facts["macs_1x3_views"]) + beside,
    }
    if clip := facts.get("clip"):
        stride = f", stride {clip['stride']}" if clip["sampling"] == "strided" else ""
        rows["clip"] = f"{clip['num_frames']} frames, {clip['sampling']}{stride}, {clip['image_size']} px"
        labels = facts["labels"]
        for task, names in labels.items() if isinstance(labels, dict) else [("labels", labels)]:
            rows[task] = ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")
    out = terminal.console()
    out.print(terminal.pairs(rows))
    out.print("MACs are multiply-adds, exact; the literature's FLOPs of video models. 1x3 views: 1 clip, 3 crops.")


def _count(number: float) -> str:
    return f"{number / 1e9:.1f}e9" if number >= 1e9 else f"{number / 1e6:.2f}e6"
