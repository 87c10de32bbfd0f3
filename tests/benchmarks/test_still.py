"""The camera of the still picture benchmark, and its count of multiply-adds."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

from helpers.streams import make_noisy_model
from xvit import count_macs
from xvit.models.streaming import Stream

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import still


@pytest.mark.parametrize(("share", "events"), [(0.5, 1), (0.9, 2), (0.95, 5), (0.99, 1)])
def test_a_camera_repeats_as_many_frames_as_it_says(share, events):
    frames = list(still.watch_camera(200, share, events, 2))
    new = [True, *(not torch.equal(a, b) for a, b in itertools.pairwise(frames))]
    assert (len(frames), sum(new)) == (200, round(200 * (1 - share)))
    assert sum(now and not before for before, now in zip([False, *new], new, strict=False)) == events


def test_macs_are_those_of_the_model():
    model = make_noisy_model(causal=True, num_frames=1)
    counted = still.CountedStream(Stream(model))
    counted.push(torch.randn(1, 1, 3, 16, 16))
    assert counted.macs == count_macs(model)
