"""The options that say what is no event: --ignore and --motion-threshold, of `xvit stream` and `xvit timeline`."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from xvit.cli.parsing import CommandParser


def add_gates(parser: CommandParser) -> None:
    """Add the options."""
    text = 'a class that is no event; repeatable; "background" if unset and the model has it; "" for none'
    parser.add("--ignore CLASS", str, text, action="append")
    text = "grey levels of 255 that some part of the picture must change by during a clip; 5 if unset, 0 for no gate"
    parser.add("--motion-threshold L", float | None, text, low=0)


def resolve_gates(args: Namespace, class_names: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The classes to ignore and the motion threshold. Raises `XViTError` if the model has no such class."""
    from xvit.inference.gating import MOTION_THRESHOLD, resolve_ignored

    ignore = None if args.ignore is None else [name for name in args.ignore if name]
    threshold = MOTION_THRESHOLD if args.motion_threshold is None else args.motion_threshold
    return {"ignore": resolve_ignored(class_names, ignore), "motion_threshold": threshold}
