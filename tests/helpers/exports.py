"""A model to export, and limits that any export passes."""

from helpers.color_videos import make_model, with_metadata
from xvit.export import ParityLimits
from xvit.models.xvit import XViT

CLASS_NAMES = ["blue", "green", "red"]
NO_LIMITS = ParityLimits(min_agreement=0)  # for random weights, whose top classes have almost equal logits


def make_original(**options) -> XViT:
    """A model of random weights with class names."""
    return with_metadata(make_model(**options), CLASS_NAMES)
