"""`xvit export`: a trained model for other runtimes."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.utils.errors import check_range

if TYPE_CHECKING:
    from xvit.export.exporter import Parity


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "export",
        "CHECKPOINT --output DIR --videos VIDEO_OR_FOLDER ... [--format F] [--precision P] [--streaming]",
        "Write a trained model as a program for ONNX Runtime, OpenVINO or torch.export, with its labels and what its\n"
        "input is. Then both are run on clips of the videos, and if their answers differ by more than is allowed,\n"
        "nothing is left. `xvit predict` and `xvit eval` take the directory as a --checkpoint. int8 calculates in\n"
        "integers and is calibrated on half of the videos: give training videos. int8-weights only stores integers.\n"
        "A streaming step is one frame of a causal model, with what it remembers as inputs and outputs.",
        "xvit export run/best --output run/int8 --format openvino --precision int8 --videos videos/train\n"
        "xvit export run/best --output run/onnx --videos videos/train\n"
        "xvit export live/best --output live/step --format onnx --streaming --videos videos/train\n"
        "xvit predict clip.mp4 --checkpoint run/int8",
    )
    made.add_argument("checkpoint", metavar="CHECKPOINT", type=str, help="a trained model")
    made.add_argument("--output", metavar="DIR", type=str, required=True, help="directory to make")
    made.add_argument(
        "--videos", metavar="VIDEO_OR_FOLDER", nargs="+", type=str, required=True, help="real videos to compare on"
    )
    made.add_argument("--format", choices=("onnx", "openvino", "torch"), default="onnx", help="what is to run it")
    made.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8", "int8-weights"),
        default="fp32",
        help="of weights and arithmetic",
    )
    made.add_argument("--streaming", action="store_true", help="one frame's step with its state, of a causal model")
    made.add_argument(
        "--clips", metavar="N", type=int, default=100, help="clips to compare; int8 is calibrated on as many others"
    )
    made.add_argument(
        "--max-difference",
        metavar="D",
        type=float | None,
        default=None,
        help="largest difference of a logit; if unset 1e-4 for fp32, any for the others",
    )
    made.add_argument(
        "--min-agreement",
        metavar="SHARE",
        type=float,
        default=0.99,
        help="smallest share of the clips with the same best class",
    )
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    check_range("clips", args.clips, 1)
    check_range("min-agreement", args.min_agreement, 0, 1)
    if args.max_difference is not None:
        check_range("max-difference", args.max_difference, 0)
    return args


def run(args: Namespace) -> int:
    """Export one model."""
    from xvit.export.exporter import Limits, export
    from xvit.models.xvit import XViT

    known = Limits.of(args.precision)
    limit = known.max_difference if args.max_difference is None else args.max_difference
    with terminal.counters(quiet=args.json) as advance:
        parity = export(
            XViT.from_pretrained(args.checkpoint),
            args.output,
            videos=args.videos,
            format=args.format,
            precision=args.precision,
            streaming=args.streaming,
            clips=args.clips,
            limits=Limits(max_difference=limit, min_agreement=args.min_agreement),
            on_progress=advance,
        )
    if args.json:
        terminal.print_json({"output": args.output} | asdict(parity) | {"speedup": parity.speedup})
        return SUCCESS
    terminal.console().print(terminal.pairs(_facts(parity) | {"output": args.output}))
    return SUCCESS


def _facts(parity: "Parity") -> dict[str, str]:
    return {
        "size": f"{parity.bytes / 1e6:.1f} MB",
        "compared on": f"{parity.clips} clips",
        "same best class": f"{100 * parity.agreement:.1f} %",
        "difference of logits": f"at most {parity.max_difference:.2g}, on average {parity.mean_difference:.2g} "
        f"(the largest logit is {parity.largest_logit:.3g})",
        "time a clip": f"{parity.exported_ms:.1f} ms, the model itself {parity.model_ms:.1f} ms: "
        f"{parity.speedup:.2f} times as fast",
    }
