"""Each attention scheme against loops over its equation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Attention, AttentionRope, LayerNorm
from timm.models.eva import EvaAttention

from helpers.mixing import make_pattern, mixing_options
from helpers.reference import attention, mix_channels, split_heads
from xvit.config import ModelConfig, model_config
from xvit.models.attention import EVA_SCHEMES, SCHEMES, MixingAttention
from xvit.models.backbone import build_pattern
from xvit.utils.errors import XViTError

H, D = 2, 16  # heads, channels


def make(scheme: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = SCHEMES[scheme](D, num_heads=H, qkv_bias=True, **options)
    if scheme == "divided":
        layer.add_temporal_layers()
    return layer.double().eval()


def project(layer, x):
    return layer.qkv(x).chunk(3, dim=-1)


@settings(max_examples=60, deadline=None)
@given(options=mixing_options, T=st.integers(1, 5), seed=st.integers(0, 99))
def test_mixing_attention_is_softmax_over_keys_and_values_mixed_in_loops(options, T, seed):
    layer = make("mixing")
    try:
        layer.pattern = make_pattern(**options)
    except XViTError:
        return
    x = torch.randn(1, T, 3, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    naive = {name: options[name] for name in ("window", "mix_ratio", "boundary_only", "causal", "temporal_padding")}

    def mixed(y):
        parts = split_heads(y, H) if options["grouping"] == "per_head" else [y]
        return torch.cat([mix_channels(part, **naive) for part in parts], dim=-1)

    tokens = mixed(x[0]) if options["mix_inputs"] == "x" else x[0]
    q, k, v = project(layer, tokens)
    k = mixed(k) if options["mix_inputs"] in ("keys_values", "keys") else k
    v = mixed(v) if options["mix_inputs"] in ("keys_values", "values") else v
    expected = torch.stack(
        [
            torch.cat(
                [
                    attention(*qkv)
                    for qkv in zip(split_heads(q[t], H), split_heads(k[t], H), split_heads(v[t], H), strict=True)
                ],
                -1,
            )
            for t in range(T)
        ]
    )
    torch.testing.assert_close(layer(x)[0], layer.proj(expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("scheme", ["mixing", "spatial"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "norm_layer": LayerNorm}, {"gated": True}])
def test_without_neighbours_it_is_timms_attention(scheme, options):
    layer = make(scheme, **options)
    theirs = Attention(D, num_heads=H, qkv_bias=True, **options).double().eval()
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, D, dtype=torch.double)
    expected = torch.stack([theirs(x[:, t]) for t in range(3)], dim=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_joint_is_timms_attention_over_the_flattened_clip():
    layer = make("joint")
    theirs = Attention(D, num_heads=H, qkv_bias=True).double().eval()
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, D, dtype=torch.double)
    torch.testing.assert_close(layer(x), theirs(x.flatten(1, 2)).unflatten(1, (3, 5)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("T", [1, 2, 4])
def test_local_is_exact_attention_over_the_window(T):
    layer = make("local")
    layer.window = 1
    x = torch.randn(1, T, 3, D, dtype=torch.double)
    q, k, v = project(layer, x[0])
    for t in range(T):
        near = [s for s in (t - 1, t, t + 1) if 0 <= s < T]
        keys, values = torch.cat([k[s] for s in near]), torch.cat([v[s] for s in near])
        rows = zip(split_heads(q[t], H), split_heads(keys, H), split_heads(values, H), strict=True)
        expected = layer.proj(torch.cat([attention(*row) for row in rows], -1))
        torch.testing.assert_close(layer(x)[0, t], expected, atol=1e-10, rtol=0)


def test_local_with_a_window_over_the_clip_is_joint():
    local, joint = make("local"), make("joint")
    x = torch.randn(2, 4, 5, D, dtype=torch.double)
    local.window = 3
    torch.testing.assert_close(local(x), joint(x), atol=1e-12, rtol=0)
    local.window = 2
    assert not torch.allclose(local(x), joint(x), atol=1e-3)


def test_divided_attends_through_time_then_space():
    layer = make("divided")
    torch.nn.init.normal_(layer.temporal_proj.weight)
    x = torch.randn(1, 3, 4, D, dtype=torch.double)
    in_time = torch.zeros_like(x)
    for n in range(4):
        q, k, v = layer.temporal.qkv(x[0, :, n]).chunk(3, dim=-1)
        rows = zip(split_heads(q, H), split_heads(k, H), split_heads(v, H), strict=True)
        in_time[0, :, n] = layer.temporal_proj(layer.temporal.proj(torch.cat([attention(*row) for row in rows], -1)))
    q, k, v = project(layer, (x + in_time)[0])
    for t in range(3):
        rows = zip(split_heads(q[t], H), split_heads(k[t], H), split_heads(v[t], H), strict=True)
        expected = in_time[0, t] + layer.proj(torch.cat([attention(*row) for row in rows], -1))
        torch.testing.assert_close(layer(x)[0, t], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("scheme", ["spatial", "mixing"])
@pytest.mark.parametrize(("R", "grid"), [(1, (2, 3)), (4, (4, 4)), (9, (3, 6))])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_summaries_are_tokens_of_their_own(scheme, R, grid, qk_norm):
    """Appending the averaged *tokens* and projecting them gives what averaging keys and values gives (section 3.3)."""
    layer = make(scheme, qk_norm=qk_norm, norm_layer=LayerNorm)
    layer.summary_tokens, layer.num_prefix_tokens, layer.grid = R, 2, grid
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
        keys, values = torch.cat([k[t], k_summary]), torch.cat([v[t], v_summary])
        per_head = zip(split_heads(q[t], H), split_heads(keys, H), split_heads(values, H), strict=True)
        out = torch.cat([attention(layer.q_norm(a), layer.k_norm(b), c) for a, b, c in per_head], -1)
        torch.testing.assert_close(layer(x)[0, t], layer.proj(out), atol=1e-10, rtol=0)


def test_keys_are_normalised_before_they_mix():
    """With slices that cut through a head, a mixed key's channels are those of keys normalised in their own frames."""
    layer = make("mixing", qk_norm=True, norm_layer=LayerNorm)
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


def test_a_causal_mask_is_refused():
    with pytest.raises(XViTError, match="is_causal=True is not supported"):
        MixingAttention(D, num_heads=H)(torch.zeros(1, 1, 2, D), is_causal=True)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: EvaAttention(D, H, qkv_fused=True, norm_layer=LayerNorm, num_prefix_tokens=2),
        lambda: EvaAttention(D, H, qkv_fused=False, norm_layer=LayerNorm, qk_norm=True, num_prefix_tokens=2),
        lambda: AttentionRope(D, 4, qkv_fused=False, num_kv_heads=2, num_prefix_tokens=2, gated=True),
        lambda: AttentionRope(D, H, rotate_half=True, num_prefix_tokens=2),
    ],
    ids=["separate biases", "separate projections", "shared keys, gate", "rotated halves"],
)
@pytest.mark.parametrize("mix_ratio", [0.25, 0.375])  # the second separates two channels that are rotated together
def test_mixing_in_eva_models(layer, mix_ratio, monkeypatch):
    """timm's own rotated keys and values of each frame, mixed by loops, attended to by loops."""
    torch.manual_seed(0)
    theirs = layer().double().eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    x, rope = torch.randn(1, 3, 6, D, dtype=torch.double), torch.randn(4, 2 * theirs.head_dim, dtype=torch.double)
    seen = []

    def by_loops(q, k, v, **_):
        (q, k, v) = (y[0].transpose(0, 1).flatten(1) for y in (q, k, v))  # (N, h d)
        frame = len(seen)
        seen.append((k, v))
        if frame >= 3:  # the second time round all frames are known
            options = {
                "window": 1,
                "mix_ratio": mix_ratio,
                "boundary_only": False,
                "causal": False,
                "temporal_padding": "zero",
            }
            k, v = (mix_channels(torch.stack([seen[t][i] for t in range(3)]), **options)[frame - 3] for i in range(2))
        parts = zip(*(split_heads(y, theirs.num_heads) for y in (q, k, v)), strict=True)
        return torch.stack([attention(*part) for part in parts])[None]  # (1, h, N, d)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", by_loops)
        expected = [theirs(x[:, t % 3], rope=rope) for t in range(6)][3:]

    theirs.__class__ = EVA_SCHEMES["mixing"]
    config = model_config(ModelConfig(), window=1, mix_ratio=mix_ratio)
    theirs.pattern = build_pattern(config, theirs.num_heads, theirs.head_dim)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, rope=rope), torch.stack(expected, dim=1), atol=1e-10, rtol=0)
