"""What spares work: the last layer's shortcut, tubelets, merged tokens."""

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.color_videos import make_model, with_metadata, write_video
from xvit import create_model
from xvit.config import SINGLE_TASK
from xvit.models.profiling import count_macs
from xvit.models.streaming import Stream
from xvit.models.token_merging import merge_similar_tokens
from xvit.utils.errors import XViTError

TINY = {"depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 32, "patch_size": 8}


def tiny(backbone="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    defaults = {"num_classes": 5, "num_frames": 4, "backbone_kwargs": TINY}
    return create_model(backbone, **(defaults | options)).eval()


def clip(B=2, T=4):
    return torch.randn(B, T, 3, 32, 32, generator=torch.Generator().manual_seed(1))


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
def test_the_last_layers_class_tokens_alone_give_the_same_logits_and_gradients(options):
    model = tiny(**options)
    if model.config.attention == "divided":  # whose last projection starts at zero
        torch.nn.init.normal_(model.attention_layers[-1].temporal_proj.weight, std=0.1)
    assert model.class_token_only
    results = []
    for model.class_token_only in (True, False):
        model.zero_grad()
        logits = model(clip())
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 20
    for short, whole in zip(*results, strict=True):
        torch.testing.assert_close(short, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_base_patch16_rpn_224",
        "vit_base_patch16_siglip_224",
        "eva02_tiny_patch14_224",
        "deit_tiny_distilled_patch16_224",
    ],
)
def test_where_other_tokens_are_pooled_all_are_computed(backbone):
    model = create_model(backbone, num_classes=2, num_frames=2, backbone_kwargs={"depth": 1}).eval()
    assert not model.class_token_only
    clip = torch.zeros(1, 2, 3, *model.backbone.patch_embed.img_size)
    features = model.forward_features(clip).clip_embedding
    torch.testing.assert_close(model(clip), model.classifier(features)[SINGLE_TASK])
    assert count_macs(model) == count_macs(model, all_tokens=True)


def test_tubelets_start_as_the_image_model_on_a_still_clip():
    image = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()
    model = create_model(
        image, num_classes=5, num_frames=4, tubelet_size=2, temporal_padding="replicate", temporal_position="none"
    ).eval()
    assert model.load_report.resized == {"backbone.patch_embed.proj.weight": ((24, 3, 8, 8), (24, 6, 8, 8))}
    still = clip(T=1).expand(-1, 4, -1, -1, -1)
    with torch.no_grad():
        features = model.forward_features(still)
        assert features.frames.shape == (2, 2, 24)
        expected = image.forward_features(still[:, 0])[:, None].expand(-1, 2, -1, -1)
        torch.testing.assert_close(features.tokens, expected, atol=1e-5, rtol=0)


def test_a_tubelets_patches_are_convolved_in_three_dimensions():
    model = tiny(tubelet_size=2)
    weight = model.backbone.patch_embed.proj.weight  # (D, 2 C, 8, 8)
    deep = weight.unflatten(1, (2, 3)).transpose(1, 2)  # (D, C, 2, 8, 8)
    x = clip()
    bias = model.backbone.patch_embed.proj.bias
    expected = torch.nn.functional.conv3d(x.transpose(1, 2), deep, bias, stride=(2, 8, 8))  # (B, D, T / 2, 4, 4)
    model.backbone.pos_embed.data.zero_()
    patches = model.embed(x)[0][:, :, 1:]  # (B, T / 2, 16, D)
    torch.testing.assert_close(patches, expected.flatten(3).permute(0, 2, 3, 1), atol=1e-5, rtol=0)


def test_tubelets_start_from_other_numbers_of_colours_and_frames(tmp_path):
    """Of each colour, what the stem makes of a still clip stays the same."""
    image = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    torch.save(image.state_dict(), tmp_path / "image.pt")
    stem = image.patch_embed.proj.weight
    start = {"checkpoint_path": str(tmp_path / "image.pt")}
    grey = tiny(tubelet_size=2, backbone_kwargs={**TINY, "in_chans": 1}, **start).backbone.patch_embed.proj.weight
    torch.testing.assert_close(grey, stem.sum(dim=1, keepdim=True).repeat(1, 2, 1, 1) / 2)

    deep = tiny(tubelet_size=2)
    torch.nn.init.normal_(deep.backbone.patch_embed.proj.weight)  # trained: its two frames differ
    deep.save_pretrained(tmp_path / "deep")
    flat = tiny(checkpoint_path=str(tmp_path / "deep"))
    first, second = deep.backbone.patch_embed.proj.weight.chunk(2, dim=1)
    torch.testing.assert_close(flat.backbone.patch_embed.proj.weight, first + second)
    again = tiny(tubelet_size=2, checkpoint_path=str(tmp_path / "deep"))
    assert torch.equal(again.backbone.patch_embed.proj.weight, deep.backbone.patch_embed.proj.weight)


def test_tubelets_halve_the_multiply_adds():
    plain, tubelets = tiny(temporal_head="mean"), tiny(temporal_head="mean", tubelet_size=2)
    patches = 4 * 16 * 3 * 64 * 24  # pixels are read once either way
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
def test_settings_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(XViTError, match=message):
        tiny(**options)


def test_a_clip_of_half_a_tubelet_is_refused_and_neither_streams():
    with pytest.raises(XViTError, match="multiple of tubelet_size=2"):
        tiny(tubelet_size=2)(clip(T=3))
    for options in ({"tubelet_size": 2}, {"tome_r": 2}):
        with pytest.raises(XViTError, match="use tubelet_size=1 and tome_r=0"):
            Stream(tiny(causal=True, temporal_position="head", **options))


def merged_naively(frames, sizes, number, prefix):
    """One clip (T, N, D), a loop over the pairs; sizes a list of N numbers."""
    T, N, _ = frames.shape
    even, odd = list(range(prefix, N, 2)), list(range(prefix + 1, N, 2))

    def likeness(a, b):
        return sum(float(torch.cosine_similarity(frames[t, a], frames[t, b], dim=0)) for t in range(T)) / T

    partner = {a: max(odd, key=lambda b: likeness(a, b)) for a in even}
    leaving = sorted(even, key=lambda a: -likeness(a, partner[a]))[:number]
    groups = [[place] for place in range(prefix)] + [[a] for a in even if a not in leaving]
    groups += [[b, *(a for a in leaving if partner[a] == b)] for b in odd]
    totals = [sum(sizes[place] for place in group) for group in groups]
    tokens = [
        torch.stack([sum(frames[t, p] * sizes[p] for p in group) / total for t in range(T)])
        for group, total in zip(groups, totals, strict=True)
    ]
    return torch.stack(tokens, dim=1), torch.tensor(totals)


@settings(max_examples=30, deadline=None)
@given(
    T=st.integers(1, 3),
    patches=st.integers(2, 9),
    prefix=st.integers(0, 2),
    number=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_merging_is_what_a_loop_over_pairs_gives(T, patches, prefix, number, seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, T, prefix + patches, 5, generator=random, dtype=torch.float64)
    sizes = torch.randint(1, 4, (2, prefix + patches), generator=random).double()
    tokens, merged = merge_similar_tokens(x, sizes, number, num_prefix_tokens=prefix)
    assert merged.sum().item() == sizes.sum().item(), "no patch is lost, none counts twice"
    for row in range(2):
        expected, totals = merged_naively(x[row], sizes[row].tolist(), min(number, patches // 2), prefix)
        torch.testing.assert_close(tokens[row], expected)
        torch.testing.assert_close(merged[row], totals.double())


def test_the_last_patch_merges_with_none():
    x = torch.randn(2, 3, 2, 5)
    tokens, sizes = merge_similar_tokens(x, None, 4, num_prefix_tokens=1)
    assert torch.equal(tokens, x)
    assert sizes.tolist() == [[1, 1], [1, 1]]
    assert tiny(tome_r=16)(clip()).shape == (2, 5)  # 16 patches, then 8, then 4


@torch.no_grad()
def test_merging_equal_patches_changes_nothing_but_the_number_of_tokens():
    """A token that stands for several equal ones counts as all of them: attention's result is the same."""
    model = tiny(attention="mixing", tome_r=4)
    plain = tiny(attention="mixing")
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):  # all patches of a frame are alike, but differ from frame to frame
        each.backbone.pos_embed[:, 1:] = each.backbone.pos_embed[:, 1:2]
    x = torch.randn(2, 4, 3, 1, 1).expand(-1, -1, -1, 32, 32)
    assert model.encode(x).shape[2] == plain.encode(x).shape[2] - 2 * 4
    torch.testing.assert_close(model(x), plain(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("level", ["frames", "tokens"])
def test_features_of_tubelets_and_merged_tokens_are_written(level, run, tmp_path):
    path = write_video(tmp_path / "red.mp4", color=0, seed=1)
    model = with_metadata(make_model(tubelet_size=2, tome_r=1), ["blue", "green", "red"])
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "features.npy"
    words = ("features", path, "--output", output, "--checkpoint", tmp_path / "model", "--level", level)
    assert run(*words, "--num-workers", 0)[0] == 0
    # of 2 tubelets: 4 patches, of which one pair merges after the first of 2 layers, and the class token
    assert np.load(output).shape == {"frames": (1, 2, 16), "tokens": (1, 2, 4, 16)}[level]


@torch.no_grad()
def test_merged_locations_are_the_same_in_all_frames():
    """Frame t's own patches decide nothing alone: shuffling the frames gives the same groups."""
    x = torch.randn(1, 4, 12, 6, generator=torch.Generator().manual_seed(0))
    order = [2, 0, 3, 1]
    tokens, sizes = merge_similar_tokens(x, None, 3, num_prefix_tokens=1)
    shuffled, same_sizes = merge_similar_tokens(x[:, order], None, 3, num_prefix_tokens=1)
    torch.testing.assert_close(tokens[:, order], shuffled)
    assert torch.equal(sizes, same_sizes)
    assert math.isclose(sizes.sum().item(), 12)
