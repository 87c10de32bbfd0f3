"""The libraries of all models, loaded in a process before its memory is measured, so that none pays for its own."""

import contextlib

import torchvision.models.video  # noqa: F401

import xvit.experiments.benchmark.measure  # noqa: F401

with contextlib.suppress(ImportError):
    from transformers import (  # noqa: F401
        TimesformerForVideoClassification,
        VideoMAEForVideoClassification,
        VivitForVideoClassification,
    )
