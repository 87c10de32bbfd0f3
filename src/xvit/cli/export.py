"""xvit export CHECKPOINT --output DIR --videos VIDEO_OR_FOLDER ... [--format F] [--precision P]
                [--streaming | --raw-frames]

Export a trained model as a program for ONNX Runtime, OpenVINO or torch.export, with its class names and the
description of its input. Both models are then run on clips of the given videos; if their logits differ by
more than allowed, the export fails and nothing is written. `xvit predict` and `xvit eval` accept the output
folder as --checkpoint.

int8 computes in integers and is calibrated on half of the clips: give training videos, as a folder or a list
file; validation videos among them are named in a warning. int8-weights only stores the weights as integers.
With --streaming, the program processes one frame of a causal model; its state is an input and an output.
With --raw-frames, it takes decoded frames of any size, uint8, which it resizes, crops and normalises itself,
and returns scores: what remains to be done is in the 15 lines of examples/raw_frames.py.

examples:
  xvit export run/best --output run/int8 --format openvino --precision int8 --videos videos/train
  xvit export run/best --output run/onnx --videos videos/train
  xvit export run/best --output run/raw --raw-frames --videos videos/train
  xvit export live/best --output live/step --format onnx --streaming --videos videos/train
  xvit predict clip.mp4 --checkpoint run/int8
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import TRAINED_MODEL, CommandParser, select
from xvit.data.shards import check_video_exists
from xvit.utils.checkpoint_path import check_checkpoint
from xvit.utils.files import check_new_directory

if TYPE_CHECKING:
    from xvit.export.parity import ParityReport


def add_options(parser: CommandParser) -> None:
    parser.add("checkpoint CHECKPOINT", str, TRAINED_MODEL, check=check_checkpoint)
    parser.add("--output DIR", str, "folder to create", required=True, check=check_new_directory)
    text = "real videos (files, folders, lists) to compare both models on"
    parser.add("--videos VIDEO_OR_FOLDER", str, text, nargs="+", required=True, check=check_video_exists)
    parser.add("--format", Literal["onnx", "openvino", "torch"], "target runtime", default="onnx")
    precisions = Literal["fp32", "fp16", "bf16", "int8", "int8-weights"]
    parser.add("--precision", precisions, "precision of weights and arithmetic", default="fp32")
    parser.add_switch("--streaming", "export a program for one frame and its state; for causal models")
    parser.add_switch("--raw-frames", "export a program that takes uint8 frames of any size and returns scores")
    parser.add("--clips N", int, "clips to compare; int8 is calibrated on as many others", default=100, low=1)
    text = "largest allowed difference of a logit; if unset, 1e-4 for fp32 (scores of raw frames: 0.01)"
    parser.add("--max-difference D", float | None, text, low=0)
    text = "smallest allowed fraction of clips for which both models predict the same class"
    parser.add("--min-agreement FRACTION", float, text, default=0.99, low=0, high=1)
    parser.add_threads()


def run(args: Namespace) -> int:
    """Export the model and print how the export compares with it."""
    from xvit.export.exporter import export_model
    from xvit.export.parity import ParityLimits
    from xvit.models.xvit import XViT

    max_difference = ParityLimits.for_precision(args.precision, raw_frames=args.raw_frames).max_difference
    if args.max_difference is not None:
        max_difference = args.max_difference
    with terminal.progress_bars(quiet=args.json) as update:
        report = export_model(
            XViT.from_pretrained(args.checkpoint),
            args.output,
            **select(args, "videos", "format", "precision", "streaming", "raw_frames"),
            num_clips=args.clips,
            limits=ParityLimits(max_difference=max_difference, min_agreement=args.min_agreement),
            on_progress=update,
        )
    values = {"output": args.output} | asdict(report) | {"speedup": report.speedup}
    rows = _describe(report) | {"output": args.output}
    return terminal.finish(args, values, terminal.key_values(rows))


def _describe(report: "ParityReport") -> dict[str, str]:
    sizes = f": {'; '.join(report.frame_sizes)}" if report.frame_sizes else ""
    return {
        "size": f"{report.size_bytes / 1e6:.1f} MB",
        "compared on": f"{report.num_clips} clips{sizes}",
        "same class": f"{100 * report.agreement:.1f} %",
        f"difference of {report.outputs}": f"at most {report.max_difference:.2g}, on average "
        f"{report.mean_difference:.2g} (the largest is {report.max_logit:.3g})",
        "time per clip": f"{report.exported_ms:.1f} ms; the original model: {report.model_ms:.1f} ms "
        f"(speed-up {report.speedup:.2f})",
    }
