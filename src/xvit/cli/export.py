"""`xvit export`: export a trained model to another runtime."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser, parse_args
from xvit.utils.errors import check_range

if TYPE_CHECKING:
    from xvit.export.parity import ParityReport


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "export",
        "CHECKPOINT --output DIR --videos VIDEO_OR_FOLDER ... [--format F] [--precision P] [--streaming]",
        "Export a trained model as a program for ONNX Runtime, OpenVINO or torch.export, with its class names and "
        "the description of its input. Both models are then run on clips of the given videos; if their logits "
        "differ by more than allowed, the export fails and nothing is written. `xvit predict` and `xvit eval` "
        "accept the output folder as --checkpoint.\n\n"
        "int8 computes in integers and is calibrated on half of the clips: give training videos. int8-weights "
        "only stores the weights as integers. With --streaming, the program processes one frame of a causal "
        "model; its state is an input and an output.",
        "xvit export run/best --output run/int8 --format openvino --precision int8 --videos videos/train\n"
        "xvit export run/best --output run/onnx --videos videos/train\n"
        "xvit export live/best --output live/step --format onnx --streaming --videos videos/train\n"
        "xvit predict clip.mp4 --checkpoint run/int8",
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", type=str, help="a trained model")
    add("--output", metavar="DIR", type=str, required=True, help="folder to create")
    add(
        "--videos",
        metavar="VIDEO_OR_FOLDER",
        nargs="+",
        type=str,
        required=True,
        help="real videos, on which both models are compared",
    )
    add("--format", choices=("onnx", "openvino", "torch"), default="onnx", help="target runtime")
    add(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8", "int8-weights"),
        default="fp32",
        help="precision of weights and arithmetic",
    )
    add("--streaming", action="store_true", help="export a program for one frame and its state; for causal models")
    add("--clips", metavar="N", type=int, default=100, help="clips to compare; int8 is calibrated on as many others")
    add(
        "--max-difference",
        metavar="D",
        type=float | None,
        help="largest allowed difference of a logit; if unset, 1e-4 for fp32 and no limit for other precisions",
    )
    add(
        "--min-agreement",
        metavar="FRACTION",
        type=float,
        default=0.99,
        help="smallest allowed fraction of clips for which both models predict the same class",
    )
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_args(parser(), argv)
    check_range("clips", args.clips, 1)
    check_range("min-agreement", args.min_agreement, 0, 1)
    if args.max_difference is not None:
        check_range("max-difference", args.max_difference, 0)
    return args


def run(args: Namespace) -> int:
    """Export the model and print how the export compares with it."""
    from xvit.export.exporter import export_model
    from xvit.export.parity import ParityLimits
    from xvit.models.xvit import XViT

    max_difference = ParityLimits.for_precision(args.precision).max_difference
    if args.max_difference is not None:
        max_difference = args.max_difference
    with terminal.progress_bars(quiet=args.json) as update:
        report = export_model(
            XViT.from_pretrained(args.checkpoint),
            args.output,
            videos=args.videos,
            format=args.format,
            precision=args.precision,
            streaming=args.streaming,
            num_clips=args.clips,
            limits=ParityLimits(max_difference=max_difference, min_agreement=args.min_agreement),
            on_progress=update,
        )
    if args.json:
        terminal.print_json({"output": args.output} | asdict(report) | {"speedup": report.speedup})
    else:
        terminal.console().print(terminal.key_values(_describe(report) | {"output": args.output}))
    return SUCCESS


def _describe(report: "ParityReport") -> dict[str, str]:
    return {
        "size": f"{report.size_bytes / 1e6:.1f} MB",
        "compared on": f"{report.num_clips} clips",
        "same class": f"{100 * report.agreement:.1f} %",
        "difference of logits": f"at most {report.max_difference:.2g}, on average {report.mean_difference:.2g} "
        f"(the largest logit is {report.max_logit:.3g})",
        "time per clip": f"{report.exported_ms:.1f} ms; the original model: {report.model_ms:.1f} ms "
        f"(speed-up {report.speedup:.2f})",
    }
