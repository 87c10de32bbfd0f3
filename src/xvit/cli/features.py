"""`xvit features`: write feature vectors of videos to a file."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, add_videos, make_parser, parse_args
from xvit.config import InitConfig, ModelConfig
from xvit.utils.errors import XViTError, check_range

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

_CLASSIFIER_OPTIONS = {"num_classes", "dropout"}  # features come before the classifier
_MODEL_OPTIONS = [field.name for field in fields(ModelConfig) if field.name not in _CLASSIFIER_OPTIONS]
_INIT_OPTIONS = [field.name for field in fields(InitConfig)]


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "features",
        "VIDEO_OR_FOLDER ... --output FILE (--checkpoint DIR | --backbone NAME [--pretrained true] [...])",
        "Write the features that a model computes before its classifier, for search, clustering or `xvit probe`.\n"
        "The label of a video is the name of its folder. Videos that cannot be read get no row and are listed at "
        "the end; the exit code is then 1. Run the same command to continue after a stop.\n\n"
        "--checkpoint uses a trained XViT. --backbone uses an image model: each frame is processed alone "
        "(--attention spatial), and the vector of a clip is the mean over its frames (--temporal-head mean), "
        "because the other parts of an XViT need training. Weights that are not loaded are random, with seed 0.",
        "xvit features videos/train --output train.npy --checkpoint run/best\n"
        "xvit features videos --output image.npy --backbone vit_small_patch14_dinov2 --pretrained true\n"
        "xvit features clip.mp4 --output tokens.parquet --level tokens --checkpoint run/best",
    )
    add = parser.add_argument
    add_videos(parser)
    add("--output", metavar="FILE", type=str, required=True, help="file that ends in .safetensors, .npy or .parquet")
    add("--checkpoint", metavar="DIR", type=str | None, help="a trained model")
    add(
        "--level",
        type=Literal["clip", "frames", "tokens"],
        default="clip",
        help="one vector per video, one per frame, or all tokens of each frame",
    )
    add("--batch-size", metavar="N", type=int, default=16, help="videos per batch")
    add("--num-workers", metavar="N", type=int, default=2, help="loader processes; 0 decodes in the main process")
    add_device(parser)
    add_json(parser)
    parser.add_class_arguments(ModelConfig, skip=_CLASSIFIER_OPTIONS)
    parser.add_class_arguments(InitConfig)
    parser.set_defaults({"backbone": "", "attention": "spatial", "temporal_head": "mean"})
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    options = parser()
    args = parse_args(options, argv)
    check_range("batch_size", args.batch_size, 1)
    check_range("num_workers", args.num_workers, 0)
    if args.checkpoint is None:
        if not args.backbone:
            raise XViTError("--checkpoint or --backbone: missing: the model. See `xvit features --help`")
        args = options.instantiate(args)
        args.model = ModelConfig(**{name: args[name] for name in _MODEL_OPTIONS})
        args.init = InitConfig(**{name: args[name] for name in _INIT_OPTIONS})
        return args
    defaults = options.get_defaults()
    for name, value in args.items():
        if name.split(".")[0] in (*_MODEL_OPTIONS, *_INIT_OPTIONS) and value != defaults[name]:
            raise XViTError(
                f"--{name.replace('_', '-')}: cannot be combined with --checkpoint, which has its own model settings"
            )
    return args


def run(args: Namespace) -> int:
    """Write the features and print their shape."""
    from xvit.data.annotations import find_videos
    from xvit.features.extract import check_output, extract_features

    check_output(args.output)
    model = _load_model(args)
    paths = find_videos(args.videos)
    with terminal.progress_bar("extracting", quiet=args.json) as update:
        result = extract_features(
            model,
            paths,
            args.output,
            level=args.level,
            labels=[Path(path).absolute().parent.name or None for path in paths],
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            on_progress=update,
        )
    if args.json:
        terminal.print_json(
            {
                "output": str(result.output),
                "level": args.level,
                "shape": list(result.shape),
                "failed": terminal.failures_to_json(result.failures),
            }
        )
    else:
        untrained = args.checkpoint is None and not args.init
        rows = {
            "weights": "random; for trained ones, give --pretrained true or --checkpoint-path" if untrained else None,
            "features": f"{args.level}, float32 {result.shape}",
            "written to": result.output,
        }
        terminal.console().print(terminal.key_values(rows))
    terminal.print_failures(result.failures, len(paths))
    return SOME_FAILED if result.failures else SUCCESS


def _load_model(args: Namespace) -> "XViT":
    import torch

    from xvit.models.pretrained import load_initial_weights
    from xvit.models.xvit import XViT
    from xvit.utils.devices import resolve_device

    device = resolve_device(args.device)
    if args.checkpoint is not None:
        return XViT.from_pretrained(args.checkpoint, device=device)
    torch.manual_seed(0)  # untrained weights, and so the features, are the same in each run
    model = XViT(args.model)
    if args.init:
        load_initial_weights(model, args.init)
    return model.to(device).eval()
