"""Imports the libraries of all models, so that every process whose memory is measured contains all of them."""

import contextlib

import torchvision.models.video  # noqa: F401

import xvit.experiments.benchmark.measure  # noqa: F401

with contextlib.suppress(ImportError):
    from transformers import (  # noqa: F401
        TimesformerForVideoClassification,
        VideoMAEForVideoClassification,
        VivitForVideoClassification,
    )
