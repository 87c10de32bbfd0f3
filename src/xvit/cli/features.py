"""`xvit features`: video files in, a file of their feature vectors out."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import ModelConfig
from xvit.utils.errors import XViTError, check_range

_OF_CLASSES = {"num_classes", "classifier_hidden", "dropout"}  # features come before the classifier
_AS_IMAGE_MODEL = {"attention": "spatial", "temporal_head": "mean"}


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "features",
        "VIDEO_OR_FOLDER ... --output FILE (--checkpoint DIR | --backbone NAME [--pretrained true] [...])",
        "Write what a model knows of videos before its classifier, for search, clustering or `xvit probe`.\n"
        "A video's label is the name of the folder it lies in. One that cannot be read has no row, is named at the\n"
        "end, and the exit code is 1. After a stop the same command goes on.\n\n"
        "With --backbone an image model sees each frame alone (--attention spatial), and the vector of a clip is the\n"
        "mean of its frames' (--temporal-head mean): the other parts of an XViT are not trained yet. What has no\n"
        "weights to start from is drawn with seed 0.",
        "xvit features videos/train --output train.npy --checkpoint run/best\n"
        "xvit features videos --output image.npy --backbone vit_small_patch14_dinov2 --pretrained true\n"
        "xvit features clip.mp4 --output tokens.parquet --level tokens --checkpoint run/best",
    )
    made.add_argument("videos", metavar="VIDEO_OR_FOLDER", nargs="+", type=str, help="files, or folders at any depth")
    made.add_argument(
        "--output", metavar="FILE", type=str, required=True, help="ends in .safetensors, .npy or .parquet"
    )
    made.add_argument("--checkpoint", metavar="DIR", type=str | None, default=None, help="a trained model")
    made.add_argument(
        "--level",
        type=Literal["clip", "frames", "tokens"],
        default="clip",
        help="a vector a video, one a frame, or all tokens of each frame",
    )
    made.add_argument("--batch-size", metavar="N", type=int, default=16, help="videos at a time")
    made.add_argument("--num-workers", metavar="N", type=int, default=2, help="loader processes; 0 decodes in this one")
    add_device(made)
    add_json(made)
    made.add_class_arguments(ModelConfig, skip=_OF_CLASSES)
    made.set_defaults({"backbone": ""} | _AS_IMAGE_MODEL)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    made = parser()
    args = parse_words(made, argv)
    check_range("batch_size", args.batch_size, 1)
    check_range("num_workers", args.num_workers, 0)
    names = [name for name in ModelConfig.__dataclass_fields__ if name not in _OF_CLASSES]
    if args.checkpoint is None:
        if not args.backbone:
            raise XViTError("--checkpoint or --backbone: missing: the model. See `xvit features --help`")
        args.model = ModelConfig(**{name: args[name] for name in names})
        return args
    for name in names:
        if args[name] != made.get_default(name):
            raise XViTError(f"--{name.replace('_', '-')}: not with --checkpoint, whose model is as it was trained")
    return args


def run(args: Namespace) -> int:
    """Write the features."""
    import torch

    from xvit.data.annotations.samples import find_videos
    from xvit.features.extract import check_output, extract
    from xvit.models.xvit import XViT
    from xvit.utils.devices import default_device, resolve_device

    check_output(args.output)
    if args.checkpoint is None:
        torch.manual_seed(0)  # so that the same command gives the same features, whatever is untrained
        model = XViT(args.model).to(resolve_device(args.device or default_device())).eval()
    else:
        model = XViT.from_pretrained(args.checkpoint, device=args.device or default_device())
    paths = find_videos(args.videos)
    with terminal.counter("extracting", quiet=args.json) as advance:
        result = extract(
            model,
            paths,
            args.output,
            level=args.level,
            labels=[Path(path).absolute().parent.name or None for path in paths],
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            on_progress=advance,
        )
    if args.json:
        terminal.print_json(
            {
                "output": str(result.output),
                "level": args.level,
                "shape": list(result.shape),
                "failed": [{"path": error.path, "reason": error.reason} for error in result.failures],
            }
        )
    else:
        untrained = args.checkpoint is None and model.load_report is None
        rows = {
            "weights": "random: for trained ones, give --pretrained true or --checkpoint-path" if untrained else None,
            "features": f"{args.level}, float32 {result.shape}",
            "written to": result.output,
        }
        terminal.console().print(terminal.pairs(rows))
    terminal.report_failures(result.failures, len(paths))
    return SOME_FAILED if result.failures else SUCCESS
