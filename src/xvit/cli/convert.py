"""xvit convert SOURCE --output OUT [--num-frames T] [--segment-frames N] [--mix-ratio RHO] [--class-names FILE] [...]

Convert one of three kinds of SOURCE:
  a file (.pyth, .pth, .safetensors): a checkpoint of the paper's authors becomes a checkpoint folder with the
    same logits. Sizes are read from the tensors; the options give the rest. The conversion fails if a tensor
    is missing or unknown. Loading the file never executes code.
  a checkpoint folder of an earlier xvit version (format 1) becomes a checkpoint folder of this version.
  a recipe (.yaml) of an earlier xvit version becomes a recipe with the current names. Comments are not
    copied.
SOURCE is not changed, and OUT must not exist yet.

examples:
  xvit convert k600_16f.pyth --output k600 --num-frames 16 --segment-frames 8 --mix-ratio 0.25 \\
    --clip.sampling pyslowfast_strided --clip.stride 16 --clip.frame_rate 30
  xvit convert ssv2_16f.pyth --output ssv2 --num-frames 16 --class-names something-something-v2-labels.json \\
    --clip.sampling pyslowfast_segments --clip.frame_rate 12
  xvit convert old-run/best --output converted
  xvit convert old.yaml --output new.yaml
"""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args, refuse_others, require, select
from xvit.config import ClipSpec, RunConfig, from_dict, read_yaml
from xvit.config.legacy import upgrade_recipe
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text, check_exists, check_files, check_new_directory

if TYPE_CHECKING:
    from xvit.models.xvit import XViT


def add_options(parser: CommandParser) -> None:
    parser.add("source SOURCE", str, "checkpoint file, checkpoint folder or recipe", check=check_exists)
    parser.add("--output OUT", str, "folder, or recipe file, to create", required=True, check=check_new_directory)
    parser.add("--num-frames T", int | None, "frames per clip; required for a file")
    text = "mix within segments of N frames: 8 for the released Kinetics models, whose clips have 16"
    parser.add("--segment-frames N", int | None, text)
    text = "fraction of channels from neighbouring frames: 0.25 for Kinetics, 0.5 for Something-Something; 1/3, ..."
    parser.add("--mix-ratio RHO", str, text, default="0.5")
    parser.add("--num-heads H", int | None, "attention heads; one per 64 channels if unset")
    text = "class names: one per line, or JSON, a list or a mapping of names to indices; the indices if unset"
    parser.add("--class-names FILE", str | None, text, check=check_files)
    parser.add_class_arguments(ClipSpec, "clip", skip={"num_frames", "image_size"})


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options, which suit the kind of source; `.clip` is the resulting `ClipSpec`."""
    args = parse_args(parser, argv)
    if _source_kind(args.source) != "official":
        reason = "only for a checkpoint file of the paper's authors"
        refuse_others(parser, args, ("source", "output", "json"), reason)
        return args
    require(args.num_frames is not None, "--num-frames", "the frames per clip", parser.prog)
    args.clip = ClipSpec(num_frames=args.num_frames, **vars(args.clip))
    try:
        args.mix_ratio = float(Fraction(args.mix_ratio))
    except (ValueError, ZeroDivisionError):
        raise XViTError(f"--mix-ratio: expected a fraction such as 0.25 or 1/3, got {args.mix_ratio}") from None
    return args


def run(args: Namespace) -> int:
    """Convert the source and print what was written."""
    convert = {"recipe": _convert_recipe, "directory": _convert_directory, "official": _convert_official}
    facts = convert[_source_kind(args.source)](args)
    rows = {name.replace("_", " "): value for name, value in facts.items()}
    return terminal.finish(args, facts, terminal.key_values(rows))


def _source_kind(source: str) -> str:
    """recipe, official (a checkpoint file) or directory."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        return "recipe"
    return "official" if path.suffix in (".pyth", ".pth", ".pt", ".safetensors") or path.is_file() else "directory"


def _convert_recipe(args: Namespace) -> dict[str, Any]:
    output = Path(args.output)
    if output.exists():
        raise XViTError(f"{output}: exists; choose another --output")
    settings = upgrade_recipe(read_yaml(args.source))
    from_dict(RunConfig, settings, args.source)  # checks names and values
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(output, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return {"recipe": args.source, "output": args.output}


def _convert_directory(args: Namespace) -> dict[str, Any]:
    from xvit.checkpoint.legacy import upgrade_checkpoint

    upgrade_checkpoint(Path(args.source), Path(args.output))
    return {"checkpoint": args.source, "output": args.output}


def _convert_official(args: Namespace) -> dict[str, Any]:
    from xvit.data.annotations import read_class_names
    from xvit.models.backbone import resolve_clip_spec
    from xvit.models.official import load_official

    output = check_new_directory(args.output)
    class_names = read_class_names(args.class_names) if args.class_names else None
    model = load_official(args.source, **select(args, "num_frames", "segment_frames", "num_heads", "mix_ratio"))
    model.clip_spec = resolve_clip_spec(args.clip, model.backbone)
    if class_names is not None:
        expected = model.config.num_classes
        if len(class_names) != expected:
            raise XViTError(f"{args.class_names}: {len(class_names)} class names, but {args.source} has {expected}")
        model.class_names = class_names
    model.save_pretrained(output)
    return _official_facts(model, args.source) | {"output": str(output)}


def _official_facts(model: "XViT", source: str) -> dict[str, Any]:
    config, advanced, clip, report = model.config, model.config.advanced, model.clip_spec, model.load_report
    assert report is not None
    kwargs = config.backbone_kwargs
    segments = f"within segments of {advanced.segment_frames} frames" if advanced.segment_frames else "over all frames"
    return {
        "file": source,
        "tensors": len(report.loaded) + len(report.resized),
        "resized": {name: f"{old} to {new}" for name, (old, new) in report.resized.items()} or "none",
        "dropped": ", ".join(report.dropped) or "none",
        "backbone": f"{kwargs['depth']} layers, {kwargs['embed_dim']} channels, {kwargs['num_heads']} heads, "
        f"patches of {kwargs['patch_size']} px, {kwargs['img_size']} px",
        "mixing": f"{100 * config.mix_ratio:g} % of the channels, {segments}",
        "temporal_head": f"{advanced.temporal_layers} layers, hidden width {advanced.classifier_hidden}",
        "classes": config.num_classes,
        "clip": f"{clip.num_frames} frames, {clip.sampling_text}",
    }
