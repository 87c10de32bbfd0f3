"""LoRA: low-rank updates of the attention projections, and merging them into the weights."""

import pytest
import torch

from helpers.backbones import FAMILIES, image_model
from helpers.color_videos import make_model
from xvit.config import ATTENTION_SCHEMES
from xvit.models.factory import create_model
from xvit.models.lora import LoRALinear, add_lora, merge_lora

KINDS = ["augreg, patch 16", "qk-norm", "two branches per block", "SigLIP, map pooling"]
KINDS += ["Eva: EVA-02, rotary and learned positions", "Eva: EVA-02, separate projections, inner norms", "Eva: DINOv3"]


def randomise(model):
    """Nonzero updates."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoRALinear):
                layer.lora_b.normal_(std=0.05)


def test_the_update_is_a_product_of_two_small_matrices():
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 4)
    layer = LoRALinear(linear, 2)
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), linear(x))  # untrained: no update
    layer.lora_b.data.normal_()
    a, b, expected = layer.lora_a.detach(), layer.lora_b.detach(), torch.zeros(3, 4)
    for n in range(3):
        for i in range(4):
            for j in range(6):
                update = sum(b[i, r] * a[r, j] for r in range(2))
                expected[n, i] += (linear.weight.detach()[i, j] + 16 / 2 * update) * x[n, j]
            expected[n, i] += linear.bias.detach()[i]
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


MODELS = [{"attention": scheme} for scheme in ATTENTION_SCHEMES]
MODELS += [{"causal": True}, {"mix_inputs": "x"}, {"summary_tokens": 1}]


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_merged_equals_unmerged(options):
    model = make_model(**options)
    check_merging(model, torch.randn(2, 4, 3, 16, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_unmerged_for_other_backbones(kind):
    backbone, kwargs = image_model(FAMILIES[kind])
    model = create_model(backbone, num_classes=3, num_frames=2, backbone_kwargs=kwargs).eval()
    check_merging(model, torch.randn(1, 2, 3, kwargs["img_size"], kwargs["img_size"]))


def check_merging(model, clip):
    """Merged and unmerged outputs are equal; both differ from the untrained model; the merged one has its tensors."""
    names = set(model.state_dict())
    with torch.no_grad():
        before = model(clip)
        add_lora(model, 3)
        assert torch.equal(model(clip), before)
        randomise(model)
        unmerged, merged = model(clip), merge_lora(model)
        assert set(merged.state_dict()) == names
        assert not any(isinstance(layer, LoRALinear) for layer in merged.modules())
        torch.testing.assert_close(merged(clip), unmerged, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(unmerged, before, rtol=1e-3, atol=1e-3)
    assert any(isinstance(layer, LoRALinear) for layer in model.modules())  # the trained model is as it was


@pytest.mark.parametrize("scheme", ATTENTION_SCHEMES)
def test_gradients_equal_those_of_the_composed_weight(scheme):
    """Of mixing in place above all: d loss / dA by autograd, and by differentiating through W + 16/r B A."""
    torch.manual_seed(1)
    model = make_model(attention=scheme)
    add_lora(model, 2)
    randomise(model)
    clip = torch.randn(2, 4, 3, 16, 16)
    model(clip).square().sum().backward()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    assert len(layers) == 4
    factors = {name: (layer.lora_a, layer.lora_b) for name, layer in layers.items()}
    weights = {f"{name}.weight": layers[name].weight + 8 * b @ a for name, (a, b) in factors.items()}
    weights |= {f"{name}.lora_b": torch.zeros_like(b) for name, (_, b) in factors.items()}
    loss = torch.func.functional_call(model, weights, (clip,)).square().sum()
    for a, b in factors.values():
        for factor, gradient in zip((a, b), torch.autograd.grad(loss, (a, b), retain_graph=True), strict=True):
            torch.testing.assert_close(factor.grad, gradient, rtol=1e-3, atol=1e-5)


def test_only_updates_and_what_xvit_adds_are_trained():
    model = make_model(attention="divided")
    add_lora(model, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    in_backbone = {name for name in trained if name.startswith("backbone.")}
    assert all("lora_" in name or ".temporal" in name for name in in_backbone)
    assert {"temporal_position.weight", "classifier.fc.label.weight", "temporal_head.cls_token"} <= trained
    assert "backbone.blocks.0.attn.qkv.weight" not in trained
    assert "backbone.blocks.0.attn.temporal.qkv.weight" in trained
