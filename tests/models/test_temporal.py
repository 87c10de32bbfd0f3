"""Temporal positions, temporal heads and the classifier."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.reference import attention, split_heads
from helpers.tiny import random_clip, tiny_model
from xvit.models.temporal import Classifier, FrameProjection, TemporalAttention, TemporalPosition

D, H = 8, 2  # channels, heads


def test_temporal_positions_are_interpolated_linearly():
    position = tiny_model(num_frames=4).temporal_position
    position.weight.data[0] = torch.arange(4.0)[:, None]
    centres = (torch.arange(8) + 0.5) / 2 - 0.5  # of 8 frames, in units of the 4 stored positions
    torch.testing.assert_close(position(8)[0, :, 0], centres.clamp(0, 3))
    assert TemporalPosition(2, 4)(4).shape == (1, 4, 4)  # as many frames as channels


@torch.no_grad()
def test_mean_head_averages_the_frames():
    features = tiny_model(temporal_head="mean").forward_features(random_clip())
    torch.testing.assert_close(features.clip_embedding, features.frames.mean(1))


def layer_norm(x, layer):
    """Layer norm with the eps of the released heads."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("positions", [True, False])
@torch.no_grad()
def test_temporal_attention_matches_reference(layers, positions):
    """A pre-norm transformer over a learned token and the frame vectors, of which the token's output is taken."""
    torch.manual_seed(0)
    head = TemporalAttention(D, num_heads=H, layers=layers, num_frames=3 if positions else None).double().eval()
    for parameter in head.parameters():
        parameter.copy_(torch.randn_like(parameter))
    assert (len(head.blocks), head.cls_token.shape) == (layers, (1, 1, D))
    frames = 1e-3 * torch.randn(2, 3, D, dtype=torch.double)  # so small that eps matters
    clips = []
    for clip in frames:
        x = torch.cat([head.cls_token[0], clip + head.position.weight[0] if positions else clip])
        for block in head.blocks:
            parts = (split_heads(y, H) for y in block.attn.qkv(layer_norm(x, block.norm1)).chunk(3, dim=-1))
            x = x + block.attn.proj(torch.cat([attention(*qkv) for qkv in zip(*parts, strict=True)], dim=-1))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(layer_norm(x, block.norm2))))
        clips.append(layer_norm(x[0], head.norm))
    torch.testing.assert_close(head(frames), torch.stack(clips), atol=1e-9, rtol=1e-9)


def test_initial_weights_of_the_heads():
    torch.manual_seed(0)
    head = TemporalAttention(512, num_heads=H, num_frames=2)
    assert len(head.blocks) == 1
    assert head.cls_token.std().item() == pytest.approx(0.02, rel=0.1)
    for layer in (layer for layer in head.modules() if isinstance(layer, nn.Linear)):
        bound = math.sqrt(6 / sum(layer.weight.shape))  # Glorot and Bengio, uniform
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.bias is None or not layer.bias.any()
    classifier = Classifier(128, {"a": 50, "b": 60}, hidden=64)
    for layer in (classifier.hidden[0], *classifier.fc.values()):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()


@torch.no_grad()
def test_classifier_and_frame_projection_match_their_formulas():
    x = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(D, {"a": 5, "b": 0}, hidden=4)
    hidden = F.gelu(classifier.hidden[0](x))
    logits = classifier(x)
    torch.testing.assert_close(logits, {"a": hidden @ classifier.fc["a"].weight.T, "b": hidden})
    plain = Classifier(D, {"a": 5, "b": 0})
    torch.testing.assert_close(plain(x), {"a": x @ plain.fc["a"].weight.T, "b": x})
    projection = FrameProjection(D)
    torch.testing.assert_close(projection(x), (x @ projection.fc.weight.T + projection.fc.bias).tanh())


def test_dropout_of_the_classifier_is_off_by_default():
    torch.manual_seed(0)
    ones = torch.ones(100, D)
    assert torch.equal(Classifier(D, {"a": 0})(ones)["a"], ones)
    dropped = Classifier(D, {"a": 0}, dropout=0.25)(ones)["a"]
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert dropped.max().item() == pytest.approx(1 / 0.75)
