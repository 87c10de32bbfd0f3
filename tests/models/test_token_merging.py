"""Ways to reduce the cost: class tokens alone in the last layer, tubelets, token merging."""

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny import TINY_BACKBONE, random_clip, tiny_model
from xvit import create_model
from xvit.config import SINGLE_TASK
from xvit.models.profiling import count_macs
from xvit.models.streaming import Stream
from xvit.models.token_merging import merge_similar_tokens
from xvit.utils.errors import XViTError

BACKBONE_KWARGS = {**TINY_BACKBONE, "patch_size": 8}


def make_model(backbone="vit_tiny_patch16_224", **options):
    return tiny_model(backbone, **({"backbone_kwargs": BACKBONE_KWARGS} | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention": "spatial"},
        {"attention": "local"},
        {"attention": "joint"},
        {"attention": "divided"},
        {"mix_inputs": "x"},
        {"causal": True, "summary_tokens": 4},
        {"temporal_head": "mean"},
        {"backbone": "deit3_small_patch16_224"},
        {"backbone": "vit_small_patch14_reg4_dinov2"},
    ],
    ids=str,
)
def test_class_tokens_alone_in_the_last_layer_give_the_same_logits_and_gradients(options):
    model = make_model(**options)
    if model.config.attention == "divided":  # its last projection is initially zero
        torch.nn.init.normal_(model.attention_layers[-1].temporal_proj.weight, std=0.1)
    assert model.class_token_only
    results = []
    for model.class_token_only in (True, False):
        model.zero_grad()
        logits = model(random_clip())
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 20
    for class_token_only, all_tokens in zip(*results, strict=True):
        torch.testing.assert_close(class_token_only, all_tokens, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_base_patch16_rpn_224",
        "vit_base_patch16_siglip_224",
        "eva02_tiny_patch14_224",
        "deit_tiny_distilled_patch16_224",
    ],
)
def test_all_tokens_are_computed_unless_only_class_tokens_are_pooled(backbone):
    model = create_model(backbone, num_classes=2, num_frames=2, backbone_kwargs={"depth": 1}).eval()
    assert not model.class_token_only
    clip = torch.zeros(1, 2, 3, *model.backbone.patch_embed.img_size)
    features = model.forward_features(clip).clip_embedding
    torch.testing.assert_close(model(clip), model.classifier(features)[SINGLE_TASK])
    assert count_macs(model) == count_macs(model, all_tokens=True)


def test_tubelets_match_the_image_model_on_a_still_clip():
    image = timm.create_model("vit_tiny_patch16_224", num_classes=0, **BACKBONE_KWARGS).eval()
    model = create_model(
        image, num_classes=5, num_frames=4, tubelet_size=2, temporal_padding="replicate", temporal_position="none"
    ).eval()
    assert model.load_report.resized == {"backbone.patch_embed.proj.weight": ((24, 3, 8, 8), (24, 6, 8, 8))}
    still = random_clip(T=1).expand(-1, 4, -1, -1, -1)
    with torch.no_grad():
        features = model.forward_features(still)
        assert features.frames.shape == (2, 2, 24)
        expected = image.forward_features(still[:, 0])[:, None].expand(-1, 2, -1, -1)
        torch.testing.assert_close(features.tokens, expected, atol=1e-5, rtol=0)


def test_tubelet_embedding_is_a_3d_convolution():
    model = make_model(tubelet_size=2)
    weight = model.backbone.patch_embed.proj.weight  # (D, 2 C, 8, 8)
    weight_3d = weight.unflatten(1, (2, 3)).transpose(1, 2)  # (D, C, 2, 8, 8)
    x = random_clip()
    bias = model.backbone.patch_embed.proj.bias
    expected = torch.nn.functional.conv3d(x.transpose(1, 2), weight_3d, bias, stride=(2, 8, 8))  # (B, D, T / 2, 4, 4)
    model.backbone.pos_embed.data.zero_()
    patches = model.embed(x)[0][:, :, 1:]  # (B, T / 2, 16, D)
    torch.testing.assert_close(patches, expected.flatten(3).permute(0, 2, 3, 1), atol=1e-5, rtol=0)


def test_tubelets_load_weights_for_other_numbers_of_channels_and_frames(tmp_path):
    """The patch embedding of a still clip stays the same."""
    image = timm.create_model("vit_tiny_patch16_224", num_classes=0, **BACKBONE_KWARGS)
    torch.save(image.state_dict(), tmp_path / "image.pt")
    image_weight = image.patch_embed.proj.weight
    backbone_kwargs = {**BACKBONE_KWARGS, "in_chans": 1}
    grey = make_model(tubelet_size=2, backbone_kwargs=backbone_kwargs, checkpoint_path=str(tmp_path / "image.pt"))
    torch.testing.assert_close(
        grey.backbone.patch_embed.proj.weight, image_weight.sum(dim=1, keepdim=True).repeat(1, 2, 1, 1) / 2
    )

    tubelets = make_model(tubelet_size=2)
    torch.nn.init.normal_(tubelets.backbone.patch_embed.proj.weight)  # the two frames of a tubelet differ
    tubelets.save_pretrained(tmp_path / "tubelets")
    frames = make_model(checkpoint_path=str(tmp_path / "tubelets"))
    first, second = tubelets.backbone.patch_embed.proj.weight.chunk(2, dim=1)
    torch.testing.assert_close(frames.backbone.patch_embed.proj.weight, first + second)
    loaded = make_model(tubelet_size=2, checkpoint_path=str(tmp_path / "tubelets"))
    assert torch.equal(loaded.backbone.patch_embed.proj.weight, tubelets.backbone.patch_embed.proj.weight)


def test_tubelets_halve_the_macs():
    plain, tubelets = make_model(temporal_head="mean"), make_model(temporal_head="mean", tubelet_size=2)
    patches = 4 * 16 * 3 * 64 * 24  # the patch embedding costs the same in both
    head = 24 * 5
    assert count_macs(tubelets) - patches - head == (count_macs(plain) - patches - head) // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tubelet_size": 3}, "tubelet_size=3: expected a number, between 1 and 2"),
        ({"tubelet_size": 2, "num_frames": 5}, "num_frames=5: expected a multiple of tubelet_size=2"),
        ({"tubelet_size": 2, "segment_frames": 1}, "segment_frames=1: expected a multiple of tubelet_size=2"),
        ({"tome_r": -1}, "tome_r=-1"),
        ({"tome_r": 1, "attention": "joint"}, "expected 'mixing' or 'spatial'"),
        ({"tome_r": 1, "summary_tokens": 4}, "do not form a grid"),
        ({"tome_r": 1, "backbone": "eva02_tiny_patch14_224", "backbone_kwargs": {}}, "needs standard blocks"),
    ],
)
def test_invalid_combinations_of_settings(options, message):
    with pytest.raises(XViTError, match=message):
        make_model(**options)


def test_incomplete_tubelets_and_streams_are_rejected():
    with pytest.raises(XViTError, match="multiple of tubelet_size=2"):
        make_model(tubelet_size=2)(random_clip(T=3))
    for options in ({"tubelet_size": 2}, {"tome_r": 2}):
        with pytest.raises(XViTError, match="use tubelet_size=1 and tome_r=0"):
            Stream(make_model(causal=True, temporal_position="head", **options))


def merge_reference(frames, sizes, r, num_prefix_tokens):
    """Merging in one clip, (T, N, D), as a loop over pairs of tokens. `sizes` is a list of N numbers."""
    T, N, _ = frames.shape
    even, odd = list(range(num_prefix_tokens, N, 2)), list(range(num_prefix_tokens + 1, N, 2))

    def similarity(a, b):
        return sum(float(torch.cosine_similarity(frames[t, a], frames[t, b], dim=0)) for t in range(T)) / T

    partner = {a: max(odd, key=lambda b: similarity(a, b)) for a in even}
    merged = sorted(even, key=lambda a: -similarity(a, partner[a]))[:r]
    groups = [[n] for n in range(num_prefix_tokens)] + [[a] for a in even if a not in merged]
    groups += [[b, *(a for a in merged if partner[a] == b)] for b in odd]
    totals = [sum(sizes[n] for n in group) for group in groups]
    tokens = [
        torch.stack([sum(frames[t, n] * sizes[n] for n in group) / total for t in range(T)])
        for group, total in zip(groups, totals, strict=True)
    ]
    return torch.stack(tokens, dim=1), torch.tensor(totals)


@settings(max_examples=30, deadline=None)
@given(
    T=st.integers(1, 3),
    patches=st.integers(2, 9),
    num_prefix_tokens=st.integers(0, 2),
    r=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_merging_matches_reference(T, patches, num_prefix_tokens, r, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, T, num_prefix_tokens + patches, 5, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 4, (2, num_prefix_tokens + patches), generator=generator).double()
    tokens, merged_sizes = merge_similar_tokens(x, sizes, r, num_prefix_tokens=num_prefix_tokens)
    assert merged_sizes.sum().item() == sizes.sum().item(), "each patch is counted once"
    for row in range(2):
        expected, totals = merge_reference(x[row], sizes[row].tolist(), min(r, patches // 2), num_prefix_tokens)
        torch.testing.assert_close(tokens[row], expected)
        torch.testing.assert_close(merged_sizes[row], totals.double())


def test_a_single_patch_is_not_merged():
    x = torch.randn(2, 3, 2, 5)
    tokens, sizes = merge_similar_tokens(x, None, 4, num_prefix_tokens=1)
    assert torch.equal(tokens, x)
    assert sizes.tolist() == [[1, 1], [1, 1]]
    assert make_model(tome_r=16)(random_clip()).shape == (2, 5)  # 16 patches, then 8, then 4


@torch.no_grad()
def test_merging_equal_patches_keeps_the_logits():
    """Attention weights a merged token by its number of patches, so its output does not change."""
    model = make_model(attention="mixing", tome_r=4)
    unmerged = make_model(attention="mixing")
    unmerged.load_state_dict(model.state_dict())
    for m in (model, unmerged):  # all patches of a frame are equal; the frames differ
        m.backbone.pos_embed[:, 1:] = m.backbone.pos_embed[:, 1:2]
    x = torch.randn(2, 4, 3, 1, 1).expand(-1, -1, -1, 32, 32)
    assert model.encode(x).shape[2] == unmerged.encode(x).shape[2] - 2 * 4
    torch.testing.assert_close(model(x), unmerged(x), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_same_patches_merge_in_all_frames():
    """The groups depend on all frames alike: shuffling the frames does not change them."""
    x = torch.randn(1, 4, 12, 6, generator=torch.Generator().manual_seed(0))
    order = [2, 0, 3, 1]
    tokens, sizes = merge_similar_tokens(x, None, 3, num_prefix_tokens=1)
    shuffled, same_sizes = merge_similar_tokens(x[:, order], None, 3, num_prefix_tokens=1)
    torch.testing.assert_close(tokens[:, order], shuffled)
    assert torch.equal(sizes, same_sizes)
    assert math.isclose(sizes.sum().item(), 12)
