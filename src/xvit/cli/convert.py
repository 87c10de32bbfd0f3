"""`xvit import`: the authors' released checkpoints become checkpoints of ours."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, check_new_folder, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import ClipSpec
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.models.xvit import XViT


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "import",
        "FILE --output DIR --num-frames T [--segment-frames N] [--mix-ratio RHO] [--labels FILE] [--clip.sampling ...]",
        "Turn a checkpoint of the paper's authors (.pyth, .pth, .safetensors) into a checkpoint directory, whose\n"
        "logits are theirs. Depth, widths, layers, classes and slots of the temporal embedding are read off the\n"
        "shapes; the options say what shapes cannot. Every tensor has to be used: what is missing or unknown is named.",
        "xvit import k600_16f.pyth --output k600 --num-frames 16 --segment-frames 8 --mix-ratio 0.25\n"
        "xvit import ssv2_16f.pyth --output ssv2 --num-frames 16 --labels something-something-v2-labels.json",
    )
    made.add_argument("file", metavar="FILE", type=str, help="the authors' checkpoint; nothing in it is run")
    made.add_argument("--output", metavar="DIR", type=str, required=True, help="checkpoint directory to make")
    made.add_argument("--num-frames", metavar="T", type=int, required=True, help="frames a clip")
    made.add_argument(
        "--segment-frames",
        metavar="N",
        type=int | None,
        default=None,
        help="mix within segments of N frames: 8 for the released Kinetics models, which are fed 16",
    )
    made.add_argument(
        "--mix-ratio",
        metavar="RHO",
        type=str,
        default="0.5",
        help="share of the channels from neighbouring frames, as 0.25 (Kinetics), 0.5 (Something-Something), 1/3, ...",
    )
    made.add_argument(
        "--num-heads", metavar="H", type=int | None, default=None, help="attention heads; one for 64 channels if unset"
    )
    made.add_argument(
        "--labels",
        metavar="FILE",
        type=str | None,
        default=None,
        help="class names: a line each, or JSON: a list, or a mapping of names to numbers; numbers if unset",
    )
    add_json(made)
    made.add_class_arguments(ClipSpec, "clip", skip={"num_frames", "image_size"})
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    names = [name for name in ClipSpec.__dataclass_fields__ if name not in ("num_frames", "image_size")]
    args.clip = ClipSpec(num_frames=args.num_frames, **{name: args.clip[name] for name in names})
    try:
        args.mix_ratio = float(Fraction(args.mix_ratio))
    except (ValueError, ZeroDivisionError):
        raise XViTError(f"--mix-ratio: expected a share such as 0.25 or 1/3, got {args.mix_ratio}") from None
    return args


def run(args: Namespace) -> int:
    """Import one file."""
    from xvit.data.annotations.samples import read_class_names
    from xvit.models.backbone import resolve_clip_spec
    from xvit.models.official import load_official

    output = check_new_folder(args.output)
    labels = read_class_names(args.labels) if args.labels else None
    model = load_official(
        args.file,
        num_frames=args.num_frames,
        segment_frames=args.segment_frames,
        num_heads=args.num_heads,
        mix_ratio=args.mix_ratio,
    )
    model.clip_spec = resolve_clip_spec(args.clip, model.backbone)
    if labels is not None:
        if len(labels) != model.config.num_classes:
            raise XViTError(f"{args.labels}: {len(labels)} class names, but {args.file} has {model.config.num_classes}")
        model.class_names = labels
    model.save_pretrained(output)
    facts = _facts(model, args.file, output)
    if args.json:
        terminal.print_json(facts)
        return SUCCESS
    terminal.console().print(terminal.pairs({name.replace("_", " "): value for name, value in facts.items()}))
    return SUCCESS


def _facts(model: "XViT", file: str, output: Path) -> dict[str, Any]:
    config, kwargs, report = model.config, model.config.backbone_kwargs, model.load_report
    assert report is not None
    return {
        "file": file,
        "tensors": len(report.loaded) + len(report.resized),
        "resized": {name: f"{old} to {new}" for name, (old, new) in report.resized.items()} or "none",
        "dropped": ", ".join(report.dropped) or "none",
        "backbone": f"{kwargs['depth']} layers, {kwargs['embed_dim']} channels, {kwargs['num_heads']} heads, "
        f"patches of {kwargs['patch_size']} px, {kwargs['img_size']} px",
        "mixing": f"{100 * config.mix_ratio:g} % of the channels, "
        + (
            f"within segments of {config.advanced.segment_frames} frames"
            if config.advanced.segment_frames
            else "over the whole clip"
        ),
        "temporal_head": f"{config.advanced.temporal_layers} layers, hidden width {config.advanced.classifier_hidden}",
        "classes": config.num_classes,
        "clip": f"{model.clip_spec.num_frames} frames, {model.clip_spec.sampling}"
        + (f", {model.clip_spec.stride} apart" if model.clip_spec.sampling == "strided" else ""),
        "output": str(output),
    }
