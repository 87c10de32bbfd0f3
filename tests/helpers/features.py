"""Features of videos for tests: computed one video at a time, or made up."""

from collections.abc import Sequence

import numpy as np
import torch

from helpers.color_videos import CLIP
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.transforms import normalize
from xvit.features import VideoFeatures
from xvit.models.xvit import XViT


def features_one_by_one(model: XViT, paths: Sequence[str], level: str) -> np.ndarray:
    """The features of each video, alone in its batch."""
    name = "clip_embedding" if level == "clip" else level
    rows = []
    for path in paths:
        item = VideoDataset(samples=[Sample(path=path, label=None, id=path)], clip_spec=model.clip_spec)[0]
        with torch.no_grad():
            features = model.forward_features(normalize(item.pixels, model.clip_spec, torch.device("cpu")))
        rows.append(getattr(features, name))
    return torch.cat(rows).numpy()


def make_features(values, labels, level="clip", **options) -> VideoFeatures:
    """Features with these values and labels, as if extracted by a model."""
    values = np.asarray(values, np.float32)
    fields = {"paths": tuple(f"{i}.mp4" for i in range(len(values))), "labels": tuple(labels)}
    fields |= {"values": values, "level": level, "model_hash": "m", "clip_spec": CLIP}
    return VideoFeatures(**fields | options)


def make_clusters(per_class: int, seed: int, spread: float = 1.0, classes: int = 7, dim: int = 6):
    """Values around one centre per class, and labels."""
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    y = np.repeat(np.arange(classes), per_class)
    values = centres[y] + spread * np.random.default_rng(seed).normal(size=(len(y), dim))
    return values, [f"c{label}" for label in y]
