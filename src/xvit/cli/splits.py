"""The labelled videos of one split of a data set: the options of `eval`, `calibrate` and `order`, and reading them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from xvit.cli.parsing import CommandParser, require
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.config import ClassNames
    from xvit.data.annotations import Sample


def add_split(parser: CommandParser) -> None:
    """Add --split, and the settings of a data set as --data.NAME."""
    parser.add("--split", Literal["val", "test"], "validation videos, or those held out from training", default="val")
    parser.add_data()


def read_split(args: Namespace, class_names: "ClassNames", *, multi_label: bool, prog: str) -> "list[Sample]":
    """The videos of the split. If they have labels, these index the model's classes.

    Raises:
        XViTError: there are no such videos, or their labels do not suit the model.
    """
    from xvit.data.annotations import load_splits
    from xvit.evaluation import match_labels
    from xvit.evaluation.metrics import check_labels

    data = load_splits(args.data)
    if args.split == "test" and not data.test:
        held_out = "a folder test beside train and val, --data.test FILE or --data.test_fraction"
        raise XViTError(f"{args.data.root}: no test videos; hold some out: {held_out}")
    if args.split == "val":
        require(data.val, "--data.val", "the annotation file of the validation videos", prog)
    samples = match_labels(getattr(data, args.split), data.class_names, class_names)
    if any(sample.label is not None for sample in samples):
        check_labels(samples, class_names, multi_label=multi_label)
    return samples


def describe_seen(seen: dict[str, int], total: int) -> Iterator[str]:
    """What it means for the result that the model knows some of the videos."""
    if number := seen.get("train"):
        yield f"{number} of these {total} videos were trained on: the result says little about new videos"
    if number := seen.get("val"):
        yield (
            f"{number} of these {total} videos chose this checkpoint as the best of its training, so the result tends "
            "to be too high: measure it on other videos (--split test, or another --data.root)"
        )
