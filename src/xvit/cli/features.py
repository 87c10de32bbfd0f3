"""xvit features VIDEO_OR_FOLDER ... --output FILE (--checkpoint DIR | --backbone NAME [--pretrained true] [...])
       xvit features --input LIST --output DIR --checkpoint DIR [--shard I/N] [--runner ray]

Write the features that a model computes before its classifier, for search, clustering or `xvit probe`.
The label of a video is the name of its class folder: the first one below the folder that is given. Videos
that cannot be read get no row and are listed at the end; the exit code is then 1. Run the same command to
continue after a stop.

--checkpoint uses a trained XViT. --backbone uses an image model: each frame is processed alone (--attention
spatial), and the vector of a clip is the mean over its frames (--temporal-head mean), because the other parts
of an XViT need training. Weights that are not loaded are random, with seed 0.

For many videos, --input takes a list, and --output a folder for Parquet files with a row per video: path,
status, error, features. A video that cannot be read has a row with the reason.

examples:
  xvit features videos/train --output train.npy --checkpoint run/best
  xvit features videos --output image.npy --backbone vit_small_patch14_dinov2 --pretrained true
  xvit features clip.mp4 --output tokens.parquet --level tokens --checkpoint run/best
  xvit features --input videos.txt --output vectors --checkpoint run/best
"""

from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.jobs import OPTIONS, add_job, check_job, run_job
from xvit.cli.parsing import TRAINED_MODEL, CommandParser, build, parse_args, refuse_others, require, select
from xvit.config import AdvancedConfig, InitConfig, ModelConfig
from xvit.utils.checkpoint_path import check_checkpoint
from xvit.utils.files import check_exists, check_writable_file

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

_ANY_MODEL = (
    "videos",
    "allow_remote",
    "output",
    "checkpoint",
    "level",
    "batch_size",
    "num_workers",
    "device",
    "threads",
    "json",
    *OPTIONS,
)


def add_options(parser: CommandParser) -> None:
    parser.add_videos(required=False, remote=True)
    text = "file that ends in .safetensors, .npy or .parquet; with --input, a folder"
    parser.add("--output FILE", str, text, required=True)
    parser.add("--checkpoint DIR", str | None, TRAINED_MODEL, check=check_checkpoint)
    text = "one vector per video, one per frame, or all tokens of each frame"
    parser.add("--level", Literal["clip", "frames", "tokens"], text, default="clip")
    parser.add("--batch-size N", int, "videos per batch", default=16, low=1)
    parser.add("--num-workers N", int, "loader processes; 0 decodes in the main process", default=2, low=0)
    parser.add_device()
    add_job(parser, output=False)
    # Without the settings of the classifier, which comes after the features.
    parser.add_class_arguments(ModelConfig, skip={"num_classes", "multi_label", "dropout", "advanced"})
    parser.add_class_arguments(AdvancedConfig, "advanced", skip={"classifier_hidden"})
    parser.add_class_arguments(InitConfig)
    parser.checks["checkpoint_path"] = check_exists
    parser.set_defaults({"backbone": "", "attention": "spatial", "temporal_head": "mean"})


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options; without --checkpoint, `.model` and `.init` are the model's settings and initial weights."""
    args = parse_args(parser, argv)
    check_job(parser, args)
    if args.input is None:
        require(args.videos, "VIDEO_OR_FOLDER or --input", "the videos", parser.prog)
        check_writable_file(args.output)
    else:
        require(args.checkpoint, "--checkpoint", "the model of a large job", parser.prog)
    if args.checkpoint is None:
        require(args.backbone, "--checkpoint or --backbone", "the model", parser.prog)
        args = parser.instantiate(args)
        args.model, args.init = build(ModelConfig, args), build(InitConfig, args)
    else:
        reason = "cannot be combined with --checkpoint, which has its own model settings"
        refuse_others(parser, args, _ANY_MODEL, reason)
    return args


def run(args: Namespace) -> int:
    """Write the features and print their shape."""
    if args.input is not None:
        from xvit.batch import FeaturesTask

        return run_job(args, FeaturesTask(**select(args, "checkpoint", "level", "batch_size", "num_workers", "device")))
    from xvit.data.annotations import class_by_folder, find_videos
    from xvit.features.extract import check_output, extract_features

    check_output(args.output)
    model = _load_model(args)
    paths = find_videos(args.videos)
    with terminal.progress_bar("extracting", quiet=args.json) as update:
        result = extract_features(
            model,
            paths,
            args.output,
            **select(args, "level", "batch_size", "num_workers"),
            labels=[class_by_folder(path, args.videos) for path in paths],
            on_progress=update,
        )
    values = {"output": str(result.output), "level": args.level, "shape": list(result.shape)}
    untrained = args.checkpoint is None and not args.init
    rows = {
        "weights": "random; for trained ones, give --pretrained true or --checkpoint-path" if untrained else None,
        "features": f"{args.level}, float32 {result.shape}",
        "written to": result.output,
    }
    values["failed"] = terminal.failures_to_json(result.failures)
    values["with_warnings"] = [{"path": path, "warnings": texts} for path, texts in result.warnings]
    code = terminal.finish(args, values, terminal.key_values(rows), failures=result.failures, total=len(paths))
    terminal.print_warnings(result.warnings, total=len(paths))
    return code


def _load_model(args: Namespace) -> "XViT":
    import torch

    from xvit.models.pretrained import load_initial_weights
    from xvit.models.xvit import XViT
    from xvit.utils.devices import resolve_device
    from xvit.utils.threads import limit_threads

    device = resolve_device(args.device)
    if args.checkpoint is not None:
        return XViT.from_pretrained(args.checkpoint, device=device)
    torch.manual_seed(0)  # untrained weights, and so the features, are the same in each run
    model = XViT(args.model)
    limit_threads(model.approximate_macs)
    if args.init:
        load_initial_weights(model, args.init)
    return model.to(device).eval()
