"""Temporal positions and temporal heads."""

import torch

from helpers.tiny import random_clip, tiny_model


def test_temporal_positions_are_interpolated_linearly():
    position = tiny_model(num_frames=4).temporal_position
    position.weight.data[0] = torch.arange(4.0)[:, None]
    centres = (torch.arange(8) + 0.5) / 2 - 0.5  # of 8 frames, in units of the 4 stored positions
    torch.testing.assert_close(position(8)[0, :, 0], centres.clamp(0, 3))


@torch.no_grad()
def test_mean_head_averages_the_frames():
    features = tiny_model(temporal_head="mean").forward_features(random_clip())
    torch.testing.assert_close(features.clip_embedding, features.frames.mean(1))
