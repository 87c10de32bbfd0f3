"""Streams that carry unchanged patches forward, compared with a computation of all tokens in which the keys and values
of unchanged patches are replaced by hand."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.utils.flop_counter import FlopCounterMode

from helpers.streams import SIZE, add_noise, make_noisy_model
from xvit import create_model
from xvit.models.stream_patches import ChangedPatches
from xvit.models.streaming import Stream
from xvit.utils.errors import XViTError

PATCH = 8  # pixels; 2 x 2 patches
LARGE = {"img_size": 32, "patch_size": PATCH, "depth": 3, "embed_dim": 16, "num_heads": 2}  # 4 x 4 patches


class ReplacingReader:
    """Projects all tokens, replaces keys and values of unchanged ones, and mixes all frames so far as a clip."""

    def __init__(self):
        self.keys, self.values, self.changed = [], [], None

    def read(self, layer, x, rope):
        inputs = layer.project(x, rope)
        for frames, new in ((self.keys, inputs.k), (self.values, inputs.v)):
            new = new.clone()
            for token in range(new.shape[2]):
                if token not in self.changed:
                    new[:, :, token] = frames[-1][:, :, token]
            frames.append(new)
        k, v = torch.cat(self.keys, dim=1), torch.cat(self.values, dim=1)
        k = layer.pattern.mix(k) if layer.pattern.mixes_keys else k
        v = layer.pattern.mix(v) if layer.pattern.mixes_values else v
        return inputs._replace(k=k[:, -1:], v=v[:, -1:])


def find_changed(model, frame, reference, threshold):
    """The tokens to compute, patch by patch; updates the reference pixels (B, C, H, W), which may be NaN at first."""
    size, prefix = model.backbone.patch_embed.patch_size[0], model.backbone.num_prefix_tokens
    changed, columns = list(range(prefix)), frame.shape[3] // size
    for patch in range(columns * (frame.shape[2] // size)):
        y, x = size * (patch // columns), size * (patch % columns)
        new, old = (pixels[:, :, y : y + size, x : x + size] for pixels in (frame, reference))
        differences = [(a - b).abs().mean().item() for a, b in zip(new, old, strict=True)]
        if any(math.isnan(difference) or difference > threshold for difference in differences):
            changed.append(prefix + patch)
            old.copy_(new)
    return changed


@torch.no_grad()
def compute_by_hand(model, video, threshold):
    """Frame vectors (B, T, D), and the share of computed tokens."""
    model = copy.deepcopy(model)
    for layer in model.attention_layers:
        layer.reader = ReplacingReader()
    reference, tokens, vectors, num_computed = torch.full_like(video[:, 0], torch.nan), None, [], 0
    for frame in video.split(1, dim=1):
        changed = find_changed(model, frame[:, 0], reference, threshold)
        for layer in model.attention_layers:
            layer.reader.changed = changed
        new = model.encode(frame)
        tokens = new if tokens is None else tokens
        tokens[:, :, changed] = new[:, :, changed]
        vectors.append(model.pool(tokens)[1])
        num_computed += len(changed)
    return torch.cat(vectors, dim=1), num_computed / (video.shape[1] * tokens.shape[2])


def make_video(frames, *, batch=1, size=SIZE, patch=PATCH, seed=0, noise=0.0):
    """Each frame is the one before with some patches replaced, none in every third frame; and a little noise."""
    torch.manual_seed(seed)
    video = torch.randn(batch, 1, 3, size, size).repeat(1, frames, 1, 1, 1)
    for t in range(1, frames):
        for _ in range(t % 3):
            y, x = (patch * torch.randint(size // patch, (2,))).tolist()
            video[:, t:, :, y : y + patch, x : x + patch] = torch.randn(batch, 1, 3, patch, patch)
    return video + noise * torch.randn_like(video)


@settings(max_examples=40, deadline=None)
@given(
    options=st.fixed_dictionaries(
        {
            "window": st.integers(0, 3),
            "mix_ratio": st.sampled_from([0.0, 0.75, 1.0]),
            "mix_inputs": st.sampled_from(["keys_values", "keys", "values"]),
            "grouping": st.sampled_from(["flat", "per_head"]),
            "temporal_padding": st.sampled_from(["zero", "replicate"]),
            "attention": st.sampled_from(["mixing", "mixing", "spatial"]),
            "causal": st.just(True),
        }
    ),
    length=st.integers(1, 9),
    batch=st.integers(1, 2),
    case=st.sampled_from([(0.0, 0.0), (0.0, 0.01), (0.1, 0.01), (0.5, 0.01)]),  # threshold and noise
    data=st.data(),
)
def test_only_changed_tokens_are_computed(options, length, batch, case, data):
    model, (threshold, noise) = make_noisy_model(**options, backbone_kwargs=LARGE), case
    video = make_video(length, batch=batch, size=32, noise=noise, seed=length)
    expected, _ = compute_by_hand(model, video, threshold)
    cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=3), label="cuts") - {length})
    stream = Stream(model, unchanged_threshold=threshold)
    outputs = [stream.push(part) for part in video.tensor_split(cuts, dim=1)]
    vectors = torch.cat([output.frames for output in outputs], dim=1)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
    assert stream.flush().indices == []


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_reg4_dinov2",  # registers
        "vit_base_patch16_siglip_224",  # no prefix tokens, pools all patches
        "vit_small_patch16_dinov3",  # rotary positions
        "vit_small_patch16_rope_mixed_224",  # of each layer
        "vit_small_patch16_18x2_224",  # two attention layers per block
    ],
)
def test_backbones(name):
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 48, "patch_size": 16}
    model = add_noise(
        create_model(name, num_classes=3, num_frames=4, causal=True, temporal_position="head", backbone_kwargs=kwargs)
    )
    video = make_video(9, size=48, patch=16)
    expected, share = compute_by_hand(model, video, 0)
    assert share < 0.8
    vectors = Stream(model, unchanged_threshold=0).push(video).frames
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(vectors, model.forward_features(video).frames, atol=1e-3)  # an approximation


@pytest.mark.parametrize("threshold", [0, 0.1])
def test_a_video_that_changes_everywhere_is_computed_in_full(threshold):
    model = make_noisy_model(causal=True, num_frames=4)
    video = torch.randn(2, 9, 3, SIZE, SIZE)
    output = Stream(model, unchanged_threshold=threshold).push(video)
    expected = Stream(model).push(video)
    torch.testing.assert_close(output.frames, expected.frames, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_a_patch_is_compared_with_the_pixels_it_was_computed_from():
    model = make_noisy_model(causal=True)
    patches = ChangedPatches(model, 0.1)
    frame = torch.randn(1, 1, 3, SIZE, SIZE)
    assert patches.select(frame).tolist() == [0, 1, 2, 3, 4]
    assert patches.select(frame).tolist() == [0]
    frame[..., PATCH:, :PATCH] += 0.06  # the third patch drifts slowly
    assert patches.select(frame).tolist() == [0]
    frame[..., PATCH:, :PATCH] += 0.06
    assert patches.select(frame).tolist() == [0, 3]
    frame[..., PATCH:, :PATCH] += 0.06
    assert patches.select(frame).tolist() == [0]
    frame[..., 0, 0] = torch.nan
    assert patches.select(frame).tolist() == [0, 1]


def test_a_patch_that_changes_in_one_stream_is_computed_in_all():
    patches = ChangedPatches(make_noisy_model(causal=True), 0)
    frames = torch.randn(2, 1, 3, SIZE, SIZE)
    patches.select(frames)
    frames[1, :, :, 0, SIZE - 1] += 1
    assert patches.select(frames).tolist() == [0, 2]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224"])
@pytest.mark.parametrize(("threshold", "noise"), [(0, 0.0), (0.1, 0.01)])
def test_skipping_repeats_changes_no_bit(name, threshold, noise):
    """Noise below the threshold is a still picture, too: nothing is computed."""
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 16}
    model = create_model(
        name, num_classes=3, num_frames=4, causal=True, temporal_position="head", backbone_kwargs=kwargs
    )
    still = make_video(1, size=32).repeat(1, 12, 1, 1, 1)
    moving = make_video(8, size=32, patch=16, seed=1)
    video = torch.cat([still, moving, still], dim=1)
    video += noise * torch.randn_like(video)
    add_noise(model).requires_grad_(False)  # FlopCounterMode fails on parameters that become inputs of modules
    skipping = Stream(model, unchanged_threshold=threshold)
    computing = Stream(model, unchanged_threshold=threshold, skip_repeats=False)
    macs = []
    for frame in video.split(1, dim=1):
        with FlopCounterMode(display=False) as counter:
            output = skipping.push(frame)
        macs.append(counter.get_total_flops())
        expected = computing.push(frame)
        assert torch.equal(output.frames, expected.frames)
        assert torch.equal(output.logits, expected.logits)
        states = [stream.state() for stream in (skipping, computing)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0] | states[1])
    assert macs[11] == macs[-1] == 0
    assert max(macs[1:12]) < macs[0]


@pytest.mark.parametrize("class_token_only", [True, False])
def test_copies_and_saved_states(class_token_only):
    model = make_noisy_model(causal=True, num_frames=4)
    model.class_token_only = class_token_only
    video = make_video(12)
    stream = Stream(model, unchanged_threshold=0)
    stream.push(video[:, :7])
    loaded = Stream(model, unchanged_threshold=0)
    loaded.load_state(load(save(stream.state())))
    copied = stream.copy()
    expected = stream.push(video[:, 7:])
    for other in (loaded, copied):
        assert torch.equal(other.push(video[:, 7:]).logits, expected.logits)
    stream.reset()
    again = stream.push(video)
    torch.testing.assert_close(again.logits[:, 7:], expected.logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(XViTError, match="state of a stream with unchanged_threshold"):
        Stream(model).load_state(stream.state())
    plain = Stream(model)
    Stream(model, unchanged_threshold=0).load_state(plain.state())  # of a stream without frames
    plain.push(video)
    with pytest.raises(XViTError, match="state of a stream without unchanged_threshold"):
        stream.load_state(plain.state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": False}, "centered mixing.*use a model with causal=True"),
        ({"mix_inputs": "x"}, "mix_inputs='x'.*use mix_inputs='keys_values'"),
        ({"summary_tokens": 1}, "summary_tokens=1.*use summary_tokens=0"),
        ({"backbone_kwargs": LARGE | {"dynamic_img_pad": True}}, "not those of patches of pixels; use a plain ViT"),
    ],
)
def test_what_is_not_supported(options, message):
    model = make_noisy_model(**({"causal": True} | options))
    with pytest.raises(XViTError, match=message):
        Stream(model, unchanged_threshold=0)


@pytest.mark.parametrize("threshold", [-1, math.nan, True, "0"])
def test_invalid_thresholds(threshold):
    with pytest.raises(XViTError, match="unchanged_threshold="):
        Stream(make_noisy_model(causal=True), unchanged_threshold=threshold)
