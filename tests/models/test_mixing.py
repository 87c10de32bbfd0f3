"""Mixing patterns: their channel slices, and equal results from all implementations of mixing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mixing import D, H, make_pattern, mix_reference, mixing_options
from xvit.models import mixing
from xvit.models.attention import ClipReader, MixingAttention
from xvit.models.mixing import MixingPattern, channel_slices, shift, temporal_offsets
from xvit.models.stream_blocks import StreamReader
from xvit.utils.errors import XViTError


def make_layer(pattern: MixingPattern) -> MixingAttention:
    torch.manual_seed(0)
    layer = MixingAttention(D, num_heads=H, qkv_bias=True)
    layer.pattern = pattern
    return layer.double().eval()


def test_channel_order_matches_the_released_code():
    slices = channel_slices(24, 0.25, temporal_offsets(1))
    assert slices == ((1, 0, 3), (-1, 3, 6)), "the first rho/2 D channels come from t + 1, the next from t - 1"
    frames = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 1, 1, 24)
    zeros, replicate = (MixingPattern(slices=slices, replicate=replicate) for replicate in (False, True))
    assert zeros.mix(frames)[0, :, 0, 0, [0, 3, 6]].T.tolist() == [[1, 2, 3, 0], [0, 0, 1, 2], [0, 1, 2, 3]]
    assert replicate.mix(frames)[0, :, 0, 0, [0, 3]].T.tolist() == [[1, 2, 3, 3], [0, 0, 1, 2]]


def test_too_few_channels_are_rejected():
    message = r"mix_ratio=0.25: gives less than one of 8 channels to each of 4 offsets; expected 0 or at least 0.5$"
    with pytest.raises(XViTError, match=message):
        channel_slices(8, 0.25, temporal_offsets(2))
    assert channel_slices(8, 0.5, temporal_offsets(2))[-1].stop == 4


@settings(max_examples=100, deadline=None)
@given(options=mixing_options, T=st.integers(1, 5), seed=st.integers(0, 99))
def test_mixing_matches_reference(options, T, seed):
    try:
        pattern = make_pattern(**options)
    except XViTError:
        return
    x = torch.randn(1, T, 3, D, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(pattern.mix(x.unflatten(-1, (H, -1))).flatten(-2)[0], mix_reference(x[0], options))


@pytest.mark.parametrize("offset", [-5, -1, 1, 5])
@pytest.mark.parametrize("replicate", [True, False])
def test_shift_beyond_the_end_of_a_short_clip(offset, replicate):
    x = torch.arange(1.0, 4.0)[None, :, None]
    source = [t + offset for t in range(3)]
    nearest = [float(min(max(s, 0), 2) + 1) for s in source]
    expected = nearest if replicate else [float(s + 1) if 0 <= s < 3 else 0.0 for s in source]
    assert shift(x, offset, 3, replicate=replicate).flatten().tolist() == expected


class ClassTokenPattern(MixingPattern):
    """A user-defined pattern: only the first token of each frame is mixed."""

    def split(self, x):
        return super().split(x[:, :, :1])

    def join(self, moved, x):
        return torch.cat([super().join(moved, x[:, :, :1]), x[:, :, 1:]], dim=2)


@settings(max_examples=60, deadline=None)
@given(options=mixing_options, T=st.integers(1, 6), class_tokens=st.booleans(), data=st.data())
def test_all_implementations_of_a_pattern_agree(options, T, class_tokens, data):
    """Mixing of a clip in place and out of place (values and gradients), and of a stream pushed in arbitrary parts,
    gives equal results; also with a user-defined pattern."""
    try:
        pattern = make_pattern(**options)
    except XViTError:
        return
    if class_tokens:
        pattern = ClassTokenPattern(**vars(pattern))
    layer = make_layer(pattern)
    x = torch.randn(2, T, 3, D, dtype=torch.double, generator=torch.Generator().manual_seed(T))
    results = {}
    for form in ("in place", "out of place"):
        with pytest.MonkeyPatch.context() as patch:
            if form == "out of place":
                patch.setattr(MixingAttention, "mixes_in_place", False)
            tokens = x.clone().requires_grad_()
            layer.zero_grad()
            out = layer(tokens)
            out.pow(3).sum().backward()
            results[form] = [out, tokens.grad, layer.qkv.weight.grad.clone(), layer.qkv.bias.grad.clone()]
    for result, expected in zip(results["in place"], results["out of place"], strict=True):
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-9)

    layer.reader, outputs, completed, end = StreamReader(layer), [], 0, 0
    while completed < T:
        if end < T:
            start, end = end, end + data.draw(st.integers(1, T - end), label="frames of the next push")
            if pattern.lookahead:
                layer.reader.append(layer, x[:, start:end], None)
            ready = T if end == T else max(end - pattern.lookahead, completed)
        if ready > completed:
            with torch.no_grad():
                outputs.append(layer(x[:, completed:ready]))
            completed = ready
    torch.testing.assert_close(torch.cat(outputs, dim=1), results["out of place"][0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("grouping", ["flat", "per_head"])
def test_segments_are_mixed_as_separate_clips(in_place, grouping, monkeypatch):
    if not in_place:
        monkeypatch.setattr(MixingAttention, "mixes_in_place", False)
    options = {"window": 1, "mix_ratio": 0.5, "grouping": grouping}
    x = torch.randn(2, 6, 3, D, dtype=torch.double)
    layer = make_layer(make_pattern(**options))
    expected = torch.cat([layer(x[:, :3]), layer(x[:, 3:])], dim=1)
    layer.pattern = make_pattern(**options, segment_frames=3)
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
    with pytest.raises(XViTError, match="expected a multiple of segment_frames=3"):
        layer(x[:, :4])


@pytest.mark.parametrize("replicate", [True, False])
def test_a_stream_of_single_frames_is_mixed_as_the_clip(replicate):
    """At first there are fewer earlier frames than the slices reach back."""
    pattern = make_pattern(window=3, mix_ratio=0.75, causal=True, temporal_padding="replicate" if replicate else "zero")
    x = torch.randn(2, 6, 3, H, D // H, generator=torch.Generator().manual_seed(0))
    history: dict[int, torch.Tensor] = {}
    frames = [pattern.mix(frame, history=history) for frame in x.split(1, dim=1)]
    assert torch.equal(torch.cat(frames, dim=1), pattern.mix(x))


class IncompletePattern(MixingPattern):
    """A user-defined pattern with a mistake: one slice is missing."""

    def split(self, x):
        return super().split(x)[1:]


@pytest.mark.parametrize("in_place", [True, False])
def test_a_pattern_that_leaves_out_a_slice_is_an_error(in_place, monkeypatch):
    monkeypatch.setattr(MixingAttention, "mixes_in_place", in_place)
    layer = make_layer(IncompletePattern(**vars(make_pattern(window=1))))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        layer(torch.randn(1, 2, 3, D, dtype=torch.double))


class OnGPU(torch.Tensor):
    """A tensor that is said to be on a GPU, where frames are shifted in another way."""

    device = torch.device("cuda")


@given(frames=st.integers(1, 7), offset=st.integers(-8, 8), replicate=st.booleans())
def test_frames_are_shifted_in_place_on_each_device(frames, offset, replicate):
    before = torch.randn(2, frames, 3)
    expected = torch.zeros_like(before)
    for t in range(frames):
        if replicate or 0 <= t + offset < frames:
            expected[:, t] = before[:, min(max(t + offset, 0), frames - 1)]
    for kind in (torch.Tensor, OnGPU):
        x = before.clone()
        mixing._shift_in_place(x.as_subclass(kind), offset, replicate=replicate)
        assert torch.equal(x, expected)


def test_mixing_in_place_is_the_default_where_possible():
    layer = make_layer(make_pattern(window=1))
    assert isinstance(layer.reader, ClipReader)
    assert layer.mixes_in_place
    for options in ({"window": 0}, {"mix_ratio": 0.0}, {"mix_inputs": "x"}):
        assert not make_layer(make_pattern(**options)).mixes_in_place
