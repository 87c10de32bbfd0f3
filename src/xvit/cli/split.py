"""The labelled videos of a split, for the commands that measure a trained model on them."""

from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from xvit.cli.parsing import CommandParser, require
from xvit.config import ClassNames
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.data.annotations import Sample


def add_split(parser: CommandParser) -> None:
    """Add --split and the settings of a data set."""
    parser.add("--split", Literal["val", "test"], "validation videos, or those held out from training", default="val")
    parser.add_data()


def read_split(args: Namespace, class_names: ClassNames, prog: str) -> "list[Sample]":
    """The videos of the split, with labels that index the classes of the model.

    Raises:
        XViTError: there are none, or their labels do not suit the model.
    """
    from xvit.data.annotations import load_splits
    from xvit.evaluation import match_labels

    data = load_splits(args.data)
    if args.split == "test" and not data.test:
        held_out = "a folder test beside train and val, --data.test FILE or --data.test_fraction"
        raise XViTError(f"{args.data.root}: no test videos; hold some out: {held_out}")
    if args.split == "val":
        require(data.val, "--data.val", "the annotation file of the validation videos", prog)
    return match_labels(getattr(data, args.split), data.class_names, class_names)
