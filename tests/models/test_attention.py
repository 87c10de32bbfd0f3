"""Each attention scheme, compared with loops over its equation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Attention, AttentionRope, LayerNorm
from timm.models.eva import EvaAttention

from helpers.mixing import make_pattern, mix_reference, mixing_options
from helpers.reference import attention, mix_channels, split_heads
from xvit.config import ModelConfig, model_config
from xvit.models.attention import EVA_SCHEMES, SCHEMES
from xvit.models.backbone import build_pattern
from xvit.utils.errors import XViTError

H, D = 2, 16  # heads, channels


def make_layer(scheme: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = SCHEMES[scheme](D, num_heads=H, qkv_bias=True, **options)
    if scheme == "divided":
        layer.add_temporal_layers()
    return layer.double().eval()


def project(layer, x):
    """Queries, keys and values."""
    return layer.qkv(x).chunk(3, dim=-1)


def multi_head_attention(q, k, v):
    """Reference attention in `H` heads: (N, D)."""
    qkv_per_head = zip(split_heads(q, H), split_heads(k, H), split_heads(v, H), strict=True)
    return torch.cat([attention(*qkv) for qkv in qkv_per_head], -1)


@settings(max_examples=60, deadline=None)
@given(options=mixing_options, T=st.integers(1, 5), seed=st.integers(0, 99))
def test_mixing_attention_matches_reference(options, T, seed):
    layer = make_layer("mixing")
    try:
        layer.pattern = make_pattern(**options)
    except XViTError:
        return
    x = torch.randn(1, T, 3, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    tokens = mix_reference(x[0], options) if options["mix_inputs"] == "x" else x[0]
    q, k, v = project(layer, tokens)
    k = mix_reference(k, options) if options["mix_inputs"] in ("keys_values", "keys") else k
    v = mix_reference(v, options) if options["mix_inputs"] in ("keys_values", "values") else v
    expected = torch.stack([multi_head_attention(q[t], k[t], v[t]) for t in range(T)])
    torch.testing.assert_close(layer(x)[0], layer.proj(expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("scheme", ["mixing", "spatial"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "norm_layer": LayerNorm}, {"gated": True}])
def test_without_mixing_equals_timm_attention(scheme, options):
    layer = make_layer(scheme, **options)
    timm_layer = Attention(D, num_heads=H, qkv_bias=True, **options).double().eval()
    timm_layer.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, D, dtype=torch.double)
    expected = torch.stack([timm_layer(x[:, t]) for t in range(3)], dim=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(x, class_token_only=True), expected[:, :, :1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("counts", [None, [[1, 0, 1, 0], [0, 1, 1, 1]], [[1, 2, 1, 3], [4, 1, 2, 1]]], ids=str)
def test_masked_attention_matches_reference(fused, counts):
    """A mask leaves keys out, or its logarithms of counts make one key count as several equal ones."""
    layer = make_layer("spatial")
    layer.fused_attn = fused
    q, k, v = torch.randn(3, 2, 4, H, D // H, dtype=torch.double)
    mask = None if counts is None else torch.tensor(counts)[:, None, None]
    if counts:
        mask = mask.bool() if not all(map(all, counts)) else mask.double().log()
    out = layer.scaled_dot_product(q, k, v, mask)
    for b in range(2):
        repeats = torch.tensor(counts[b]) if counts else torch.ones(4, dtype=torch.long)
        keys, values = (y[b].repeat_interleave(repeats, dim=0) for y in (k, v))
        for head in range(H):
            expected = attention(q[b, :, head], keys[:, head], values[:, head])
            torch.testing.assert_close(out[b, :, head], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_dropout_is_applied_in_training_only(fused):
    layer = make_layer("spatial", attn_drop=0.5)
    layer.fused_attn = fused
    q, k = torch.randn(2, 2, 64, H, D // H, dtype=torch.double)
    ones = torch.ones_like(q)  # without dropout the result is the sum of the weights, 1
    torch.testing.assert_close(layer.scaled_dot_product(q, k, ones), ones)
    dropped = layer.train().scaled_dot_product(q, k, ones)
    assert dropped.std() > 0.05
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)


def test_joint_equals_timm_attention_over_the_flattened_clip():
    layer = make_layer("joint")
    timm_layer = Attention(D, num_heads=H, qkv_bias=True).double().eval()
    timm_layer.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, D, dtype=torch.double)
    torch.testing.assert_close(layer(x), timm_layer(x.flatten(1, 2)).unflatten(1, (3, 5)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("T", [1, 2, 4])
def test_local_matches_reference_attention_over_the_window(T):
    layer = make_layer("local")
    layer.window = 1
    x = torch.randn(1, T, 3, D, dtype=torch.double)
    q, k, v = project(layer, x[0])
    for t in range(T):
        frames = [s for s in (t - 1, t, t + 1) if 0 <= s < T]
        keys, values = torch.cat([k[s] for s in frames]), torch.cat([v[s] for s in frames])
        expected = layer.proj(multi_head_attention(q[t], keys, values))
        torch.testing.assert_close(layer(x)[0, t], expected, atol=1e-10, rtol=0)


def test_local_with_a_window_of_the_whole_clip_equals_joint():
    local, joint = make_layer("local"), make_layer("joint")
    x = torch.randn(2, 4, 5, D, dtype=torch.double)
    local.window = 3
    torch.testing.assert_close(local(x), joint(x), atol=1e-12, rtol=0)
    local.window = 2
    assert not torch.allclose(local(x), joint(x), atol=1e-3)


def test_divided_matches_temporal_then_spatial_reference():
    """Also with the first token's result only, and with merged tokens: one of size 3 counts as 3 equal tokens."""
    layer = make_layer("divided")
    torch.nn.init.normal_(layer.temporal_proj.weight)
    x, sizes = torch.randn(1, 3, 4, D, dtype=torch.double), torch.tensor([1, 3, 1, 2])
    temporal_output = torch.zeros_like(x)
    for n in range(4):
        q, k, v = layer.temporal.qkv(x[0, :, n]).chunk(3, dim=-1)
        temporal_output[0, :, n] = layer.temporal_proj(layer.temporal.proj(multi_head_attention(q, k, v)))
    q, k, v = project(layer, (x + temporal_output)[0])
    for counts, mask in ((torch.ones_like(sizes), None), (sizes, sizes.double().log()[None])):
        out, first = layer(x, mask), layer(x, mask, class_token_only=True)
        for t in range(3):
            keys, values = (y[t].repeat_interleave(counts, dim=0) for y in (k, v))
            expected = temporal_output[0, t] + layer.proj(multi_head_attention(q[t], keys, values))
            torch.testing.assert_close(out[0, t], expected, atol=1e-10, rtol=0)
            torch.testing.assert_close(first[0, t], expected[:1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_initial_temporal_layers_of_divided_attention(bias):
    torch.manual_seed(0)
    layer = SCHEMES["divided"](256, num_heads=H, qkv_bias=not bias, proj_bias=bias, dtype=torch.double)
    layer.add_temporal_layers()
    for linear in (layer.temporal.qkv, layer.temporal.proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (layer.temporal.qkv.bias is not None) == bias
    biases = [layer.temporal.proj.bias, layer.temporal.qkv.bias] if bias else [layer.temporal.proj.bias]
    assert not any(tensor.any() for tensor in (*biases, *layer.temporal_proj.parameters()))
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.double}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_work_on_the_device_of_their_weights(scheme):
    """Operations on tensors of two devices are errors."""
    layer = SCHEMES[scheme](D, num_heads=H, device="meta")
    if scheme == "divided":
        layer.add_temporal_layers()
    if scheme in ("mixing", "spatial"):
        layer.summary_tokens, layer.causal_summaries, layer.summary_window = 1, True, 2
    out = layer(torch.empty(2, 3, 4, D, device="meta"))
    assert (out.device.type, out.shape) == ("meta", (2, 3, 4, D))
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}


@pytest.mark.parametrize("scheme", ["spatial", "mixing"])
@pytest.mark.parametrize(
    ("R", "grid", "window"),
    [(1, (2, 3), None), (4, (4, 4), None), (9, (3, 6), None), (1, (2, 3), 1), (4, (2, 4), 2)],
)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_summary_tokens_match_reference(scheme, R, grid, window, qk_norm):
    """Averaging the tokens and then projecting them equals averaging the keys and values (paper, section 3.3). With a
    window, the summaries of a frame itself and of window - 1 earlier ones are attended to."""
    layer = make_layer(scheme, qk_norm=qk_norm, norm_layer=LayerNorm)
    layer.summary_tokens, layer.num_prefix_tokens, layer.grid = R, 2, grid
    if window:
        layer.causal_summaries, layer.summary_window = True, window
    T, rows, columns = 3, *grid
    x = torch.randn(1, T, 2 + rows * columns, D, dtype=torch.double)
    r = int(R**0.5)
    summary = []
    for t in range(T):
        patches = x[0, t, 2:].reshape(rows, columns, D)
        for i in range(r):
            for j in range(r):
                cell = patches[i * rows // r : (i + 1) * rows // r, j * columns // r : (j + 1) * columns // r]
                summary.append(cell.reshape(-1, D).mean(0))
    _, k_summary, v_summary = project(layer, torch.stack(summary))
    q, k, v = project(layer, x[0])
    for t in range(T):
        seen = slice(max(t - window + 1, 0) * R, (t + 1) * R) if window else slice(None)
        keys, values = torch.cat([k[t], k_summary[seen]]), torch.cat([v[t], v_summary[seen]])
        per_head = zip(split_heads(q[t], H), split_heads(keys, H), split_heads(values, H), strict=True)
        out = torch.cat([attention(layer.q_norm(a), layer.k_norm(b), c) for a, b, c in per_head], -1)
        torch.testing.assert_close(layer(x)[0, t], layer.proj(out), atol=1e-10, rtol=0)


def test_keys_are_normalised_before_mixing():
    """If a slice ends within a head, each channel of a mixed key was normalised in the frame that it comes from."""
    layer = make_layer("mixing", qk_norm=True, norm_layer=LayerNorm)
    layer.pattern = make_pattern(mix_ratio=0.25, mix_inputs="keys", causal=True)
    x = torch.randn(1, 2, 3, D, dtype=torch.double)
    q, k, v = project(layer, x[0])
    k = torch.cat([layer.k_norm(part) for part in split_heads(k, H)], -1)
    k = torch.stack(
        [torch.cat([torch.zeros_like(k[0, :, :4]), k[0, :, 4:]], -1), torch.cat([k[0, :, :4], k[1, :, 4:]], -1)]
    )
    rows = zip(split_heads(q[1], H), split_heads(k[1], H), split_heads(v[1], H), strict=True)
    expected = layer.proj(torch.cat([attention(layer.q_norm(a), b, c) for a, b, c in rows], -1))
    torch.testing.assert_close(layer(x)[0, 1], expected, atol=1e-10, rtol=0)


def test_causal_mask_is_rejected():
    for scheme in ("mixing", "divided"):
        with pytest.raises(XViTError, match="is_causal=True is not supported"):
            make_layer(scheme)(torch.zeros(1, 1, 2, D, dtype=torch.double), is_causal=True)


@pytest.mark.parametrize(
    "make_timm_layer",
    [
        lambda: EvaAttention(D, H, qkv_fused=True, norm_layer=LayerNorm, num_prefix_tokens=2),
        lambda: EvaAttention(D, H, qkv_fused=False, norm_layer=LayerNorm, qk_norm=True, num_prefix_tokens=2),
        lambda: AttentionRope(D, 4, qkv_fused=False, num_kv_heads=2, num_prefix_tokens=2, gated=True),
        lambda: AttentionRope(D, H, rotate_half=True, num_prefix_tokens=2),
    ],
    ids=["separate-biases", "separate-projections", "grouped-keys-gated", "rotate-half"],
)
@pytest.mark.parametrize("mix_ratio", [0.25, 0.375])  # 0.375 separates two channels that are rotated together
def test_eva_mixing_matches_reference(make_timm_layer, mix_ratio, monkeypatch):
    """The reference mixes the rotated keys and values that timm's layer computes for each frame."""
    torch.manual_seed(0)
    layer = make_timm_layer().double().eval()
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    x, rope = torch.randn(1, 3, 6, D, dtype=torch.double), torch.randn(4, 2 * layer.head_dim, dtype=torch.double)
    keys_values = []

    def reference(q, k, v, **_):
        (q, k, v) = (y[0].transpose(0, 1).flatten(1) for y in (q, k, v))  # (N, h d)
        frame = len(keys_values)
        keys_values.append((k, v))
        if frame >= 3:  # in the second pass the keys and values of all frames are recorded
            options = {
                "window": 1,
                "mix_ratio": mix_ratio,
                "boundary_only": False,
                "causal": False,
                "temporal_padding": "zero",
            }
            k, v = (
                mix_channels(torch.stack([keys_values[t][i] for t in range(3)]), **options)[frame - 3] for i in range(2)
            )
        parts = zip(*(split_heads(y, layer.num_heads) for y in (q, k, v)), strict=True)
        return torch.stack([attention(*part) for part in parts])[None]  # (1, h, N, d)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", reference)
        expected = [layer(x[:, t % 3], rope=rope) for t in range(6)][3:]

    layer.__class__ = EVA_SCHEMES["mixing"]
    config = model_config(ModelConfig(), window=1, mix_ratio=mix_ratio)
    layer.pattern = build_pattern(config, layer.num_heads, layer.head_dim)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, rope=rope), torch.stack(expected, dim=1), atol=1e-10, rtol=0)


@torch.no_grad()
def test_untrained_eva_divided_equals_spatial():
    layer = AttentionRope(D, H, num_prefix_tokens=2).double().eval()
    x, rope = torch.randn(2, 3, 6, D, dtype=torch.double), torch.randn(4, 2 * layer.head_dim, dtype=torch.double)
    layer.__class__ = EVA_SCHEMES["spatial"]
    expected = layer(x, rope=rope)
    layer.__class__ = EVA_SCHEMES["divided"]
    layer.add_temporal_layers()
    torch.testing.assert_close(layer(x, rope=rope), expected, atol=1e-12, rtol=0)
