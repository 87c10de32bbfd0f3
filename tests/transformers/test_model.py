"""The config and the model: the applicable ones of transformers' common model tests, and files that both sides open."""

import copy
import inspect
import json
import math
import shutil

import pytest
import torch
from torch import nn

from helpers.calibration import with_calibration
from helpers.color_videos import CLASSES, FRAMES, MODEL, SIZE, make_config, make_model, with_metadata, write_videos
from helpers.warm_processes import WarmProcess
from xvit.config import ClipSpec
from xvit.inference.predictor import Predictor
from xvit.models.factory import create_model
from xvit.models.xvit import XViT
from xvit.training import fit
from xvit.utils.errors import XViTError

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from xvit.transformers import XViTConfig, XViTForVideoClassification  # noqa: E402

# peft reads is_gradient_checkpointing, and users call gradient_checkpointing_enable: transformers 6 removes both.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

TOKENS, DIM, HEADS = 1 + (SIZE // 8) ** 2, 16, 2
AUTO = transformers.AutoModelForVideoClassification


def new_config(**options):
    return XViTConfig(
        **{"backbone": MODEL.backbone, "num_frames": FRAMES, "backbone_kwargs": MODEL.backbone_kwargs}, **options
    )


def equal(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# Files


def test_transformers_opens_xvit_checkpoint(model, directory, clips):
    opened, info = AUTO.from_pretrained(directory, output_loading_info=True)
    assert type(opened) is XViTForVideoClassification
    assert not opened.training
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert equal(opened, model)
    assert torch.equal(opened(clips).logits, model(clips))


def test_a_calibration_stays_with_its_weights(directory, clips, tmp_path):
    """transformers' logits are those of the model; xvit obeys what it has saved, unless the weights are new."""
    calibrated = with_calibration(XViT.from_pretrained(directory), temperature=3.0)
    calibrated.save_pretrained(tmp_path / "calibrated")
    opened = AUTO.from_pretrained(tmp_path / "calibrated")
    assert torch.equal(opened(clips).logits, calibrated(clips))
    opened.save_pretrained(tmp_path / "saved")
    assert XViT.from_pretrained(tmp_path / "saved").calibration == calibrated.calibration
    with torch.no_grad():
        opened.classifier.fc["label"].weight.mul_(2)
    opened.save_pretrained(tmp_path / "trained")
    assert XViT.from_pretrained(tmp_path / "trained").calibration == {}
    with pytest.raises(XViTError, match=r"temperature=0\.0: expected a number"):
        new_config(num_labels=3, calibration=opened.config.to_dict()["calibration"] | {"temperature": 0})


def test_xvit_opens_transformers_checkpoint(model, directory, clips, tmp_path):
    AUTO.from_pretrained(directory).save_pretrained(tmp_path / "saved")
    opened = XViT.from_pretrained(tmp_path / "saved")
    assert equal(opened, model)
    assert torch.equal(opened(clips), model(clips))
    assert (opened.config, opened.clip_spec, opened.class_names) == (model.config, model.clip_spec, model.class_names)
    assert opened.provenance == {"data": "colours"}
    again = AUTO.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(clips).logits, model(clips))
    name = "preprocessor_config.json"
    assert (tmp_path / "saved" / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"backbone_kwargs": MODEL.backbone_kwargs | {"init_values": 0.1, "qk_norm": True, "reg_tokens": 2}},
        {"attention": "divided", "temporal_head": "mean", "temporal_position": "none"},
        {"summary_tokens": 4, "frame_projection": True, "classifier_hidden": 8, "temporal_position": "head"},
        {"backbone": "eva02_tiny_patch14_224"},
        {"backbone": "vit_small_patch16_dinov3"},
    ],
    ids=["scales", "divided", "released", "EVA-02", "DINOv3"],
)
def test_round_trip_keeps_names_and_values_of_all_tensors(options, clips, tmp_path):
    model = make_model(**options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    with_metadata(model, list(CLASSES)).save_pretrained(tmp_path / "one")
    opened = AUTO.from_pretrained(tmp_path / "one")
    opened.save_pretrained(tmp_path / "two")
    assert equal(opened, model)
    assert torch.equal(opened(clips).logits, model(clips))
    assert equal(XViT.from_pretrained(tmp_path / "two"), model)


def test_opens_training_checkpoint(tmp_path, clips):
    fit(make_config(write_videos(tmp_path / "videos", train=2, val=1), epochs=1), tmp_path / "run")
    opened = AUTO.from_pretrained(tmp_path / "run" / "best")
    assert opened.config.id2label == dict(enumerate(CLASSES))
    assert torch.equal(opened(clips).logits, XViT.from_pretrained(tmp_path / "run" / "best")(clips))


def test_config_matches_checkpoint(directory):
    config = transformers.AutoConfig.from_pretrained(directory)
    assert type(config) is XViTConfig
    assert config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert config.label2id == {"blue": 0, "green": 1, "red": 2}
    assert (config.num_labels, config.num_frames, config.image_size) == (3, FRAMES, SIZE)
    written = json.loads((directory / "config.json").read_text())
    assert {key: config.to_dict()[key] for key in written} == written


def test_config_from_scratch(clips):
    flat = new_config(num_labels=4, window=2)
    nested = XViTConfig(
        model={"backbone": MODEL.backbone, "num_frames": FRAMES, "window": 2, "num_classes": 4}
        | {"backbone_kwargs": MODEL.backbone_kwargs}
    )
    assert flat.checkpoint_metadata == nested.checkpoint_metadata
    assert flat.id2label == {0: "0", 1: "1", 2: "2", 3: "3"}
    # open fields of the clip spec follow the training of timm's vit_tiny_patch16_224
    assert flat.clip_spec == ClipSpec(
        num_frames=FRAMES, frame_rate=None, image_size=SIZE, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    torch.manual_seed(3)
    model = XViTForVideoClassification(flat).eval()
    torch.manual_seed(3)
    twin = create_model(
        MODEL.backbone, num_classes=4, num_frames=FRAMES, window=2, backbone_kwargs=MODEL.backbone_kwargs
    )
    assert equal(model, twin)  # transformers' own initialisation left XViT's alone
    assert torch.equal(model(clips).logits, twin.eval()(clips))


def test_new_model_starts_from_checkpoint_path(model, directory, tmp_path):
    started = XViTForVideoClassification(new_config(checkpoint_path=str(directory), num_labels=3))
    assert equal(started, model)
    started.save_pretrained(tmp_path)
    assert str(directory) not in (tmp_path / "config.json").read_text()
    assert equal(AUTO.from_pretrained(tmp_path), model)


def test_flat_options_of_advanced_config():
    config = new_config(num_labels=2, spatial_position="sincos")
    assert config.model.advanced.spatial_position == "sincos"
    assert XViTConfig(**config.to_dict()).model == config.checkpoint_metadata.model


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": {"verb": 2, "noun": 3}}, "models of one task with one label per video only"),
        ({"model": {"windw": 2}}, 'Did you mean "window"'),
        ({"format": 99}, "pip install -U xvit"),
        ({"window": "wide"}, "window"),
        ({"attention": "mixed"}, "mixing"),
    ],
)
def test_config_raises(options, text):
    with pytest.raises(XViTError, match=text):
        new_config(**options)


def test_other_num_frames_raises_on_opening(directory):
    assert AUTO.from_pretrained(directory, num_frames=FRAMES).config.num_frames == FRAMES
    with pytest.raises(XViTError, match=r"num_frames=16: this checkpoint has 4.*checkpoint_path=DIR"):
        AUTO.from_pretrained(directory, num_frames=16)


def test_several_tasks_raise_on_opening(tmp_path):
    with_metadata(make_model({"verb": 2, "noun": 3}), {"verb": ["a", "b"], "noun": ["c", "d", "e"]}).save_pretrained(
        tmp_path / "m"
    )
    with pytest.raises(XViTError, match="models of one task with one label per video only"):
        AUTO.from_pretrained(tmp_path / "m")


def test_class_indices_with_a_gap_are_not_written(directory, tmp_path):
    config = XViTConfig.from_pretrained(directory)
    config.id2label = {1: "a", 2: "b"}
    with pytest.raises(XViTError, match=r"class indices \[1, 2\]: expected 0 to 1"):
        config.save_pretrained(tmp_path)


def test_other_classes(model, directory, clips, tmp_path):
    names = ["run", "jump", "sit", "walk", "stand"]
    torch.manual_seed(5)
    opened = AUTO.from_pretrained(
        directory,
        num_labels=5,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    assert opened(clips).logits.shape == (2, 5)
    old = model.state_dict()
    for name, tensor in opened.state_dict().items():
        assert name.startswith("classifier") or torch.equal(tensor, old[name])
    weight, bias = opened.classifier.fc.label.weight, opened.classifier.fc.label.bias
    assert 0.01 < weight.std() < 0.03  # Classifier starts from a normal distribution of std 0.02
    assert weight.abs().max() < 0.12
    assert not bias.any()
    opened.save_pretrained(tmp_path / "five")
    again = XViT.from_pretrained(tmp_path / "five")
    assert again.class_names == names
    assert torch.equal(again(clips), opened(clips).logits)


# The model


def test_forward_signature():
    parameters = list(inspect.signature(XViTForVideoClassification.forward).parameters)
    assert parameters == ["self", "pixel_values", "labels", "output_hidden_states", "output_attentions", "return_dict"]


def test_loss_and_tuple(directory, clips):
    model = AUTO.from_pretrained(directory)
    labels = torch.tensor([2, 0])
    output = model(clips, labels=labels)
    shares = output.logits.exp() / output.logits.exp().sum(1, keepdim=True)
    by_hand = -(math.log(shares[0, 2].item()) + math.log(shares[1, 0].item())) / 2
    assert output.loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss, logits = model(clips, labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)


def test_hidden_states(model, directory, clips):
    states = AUTO.from_pretrained(directory)(clips, output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == [(2, FRAMES * TOKENS, DIM)] * 3
    backbone = model.backbone
    for b in range(2):
        for t in range(FRAMES):  # embeddings: timm's for each single frame, plus the frame's position
            image = (
                backbone._pos_embed(backbone.patch_embed(clips[b, t : t + 1]))[0] + model.temporal_position.weight[0, t]
            )
            torch.testing.assert_close(states[0][b, t * TOKENS : (t + 1) * TOKENS], image, rtol=0, atol=1e-6)
    for before, after, block in zip(states, states[1:], backbone.blocks, strict=False):
        torch.testing.assert_close(after, block(before.unflatten(1, (FRAMES, TOKENS))).flatten(1, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        backbone.norm(states[-1]), model.forward_features(clips).tokens.flatten(1, 2), rtol=0, atol=1e-6
    )


def test_hooks_are_removed(directory, clips):
    model = AUTO.from_pretrained(directory, attn_implementation="eager")
    model(clips, output_hidden_states=True, output_attentions=True)
    with pytest.raises(XViTError, match="channels"):
        model(clips[:, :, :2], output_hidden_states=True, output_attentions=True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2 * FRAMES, HEADS, TOKENS, TOKENS)),
        ({"summary_tokens": 1}, (2 * FRAMES, HEADS, TOKENS, TOKENS + FRAMES)),
        ({"attention": "spatial"}, (2 * FRAMES, HEADS, TOKENS, TOKENS)),
        ({"attention": "divided"}, (2 * FRAMES, HEADS, TOKENS, TOKENS)),
        ({"attention": "joint"}, (2, HEADS, FRAMES * TOKENS, FRAMES * TOKENS)),
        ({"summary_tokens": 1, "causal": True}, (2 * FRAMES, HEADS, TOKENS, TOKENS + FRAMES)),
        ({"backbone": "eva02_tiny_patch14_224"}, (2 * FRAMES, HEADS, TOKENS, TOKENS)),
    ],
    ids=["mixing", "summaries", "spatial", "divided", "joint", "causal", "EVA-02"],
)
def test_eager_attention(options, shape, clips, tmp_path):
    model = with_metadata(make_model(**options), list(CLASSES))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "m")
    eager = AUTO.from_pretrained(tmp_path / "m", attn_implementation="eager")
    fused = AUTO.from_pretrained(tmp_path / "m")
    output = eager(clips, output_attentions=True)
    torch.testing.assert_close(output.logits, fused(clips).logits, rtol=0, atol=1e-5)
    assert [weights.shape for weights in output.attentions] == [shape] * 2
    for weights in output.attentions:
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:-1]))
    fused.set_attn_implementation("eager")
    assert torch.equal(fused(clips).logits, output.logits)


def test_attention_weights_follow_the_formula(clips, tmp_path):
    with_metadata(make_model(attention="spatial"), list(CLASSES)).save_pretrained(tmp_path / "m")
    model = AUTO.from_pretrained(tmp_path / "m", attn_implementation="eager")
    output = model(clips, output_attentions=True, output_hidden_states=True)
    block, d = model.backbone.blocks[1], DIM // HEADS
    tokens = block.norm1(output.hidden_states[1]).unflatten(1, (FRAMES, TOKENS))
    for b, t, head in ((0, 0, 0), (1, 2, 1)):
        qkv = tokens[b, t] @ block.attn.qkv.weight.T + block.attn.qkv.bias
        q, k = qkv[:, head * d : (head + 1) * d], qkv[:, DIM + head * d : DIM + (head + 1) * d]
        expected = (q @ k.T / math.sqrt(d)).softmax(-1)
        torch.testing.assert_close(output.attentions[1][b * FRAMES + t, head], expected, rtol=0, atol=1e-6)


def test_unavailable_attention_weights(directory, clips, tmp_path):
    fused = AUTO.from_pretrained(directory)
    with pytest.raises(XViTError, match=r'attn_implementation="sdpa".*set_attn_implementation\("eager"\)'):
        fused(clips, output_hidden_states=True, output_attentions=True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fused.modules())
    with_metadata(make_model(attention="local"), list(CLASSES)).save_pretrained(tmp_path / "m")
    local = AUTO.from_pretrained(tmp_path / "m", attn_implementation="eager")
    with pytest.raises(XViTError, match="local"):
        local(clips, output_attentions=True)


@pytest.mark.parametrize("kind", ["activation_checkpointing", "gradient_checkpointing"])
def test_gradient_checkpointing_keeps_gradients(directory, clips, kind):
    labels = torch.tensor([1, 2])
    gradients, recomputed = [], 0

    def count(*_):
        nonlocal recomputed
        recomputed += 1

    for enable in (False, True):
        model = AUTO.from_pretrained(directory).train()
        if enable:
            getattr(model, f"{kind}_enable")()
            assert model.is_activation_checkpointing
            model.backbone.blocks[0].register_forward_pre_hook(count)
        model(clips, labels=labels).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert recomputed == 2  # forward, and again in the backward pass
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    getattr(model, f"{kind}_disable")()
    assert not model.backbone.grad_checkpointing


def test_copies_and_replaced_modules_are_used(directory, clips):
    """The forward pass uses the current modules: a copy's own tensors, a replaced classifier."""
    model = AUTO.from_pretrained(directory)
    before = model(clips).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(clips).logits, before)
    assert not twin(clips).logits.any()
    model.classifier = nn.Linear(DIM, 7)
    assert model(clips).logits.shape == (2, 7)
    replica = model._replicate_for_data_parallel()  # as nn.DataParallel does for each device
    replica.classifier = nn.Linear(DIM, 9)
    assert replica(clips).logits.shape == (2, 9)
    assert model(clips).logits.shape == (2, 7)


def test_predictor_accepts_xvit(directory, video):
    assert Predictor(AUTO.from_pretrained(directory).xvit)(video) == Predictor(directory)(video)


def test_compiles_to_one_graph(directory, clips):
    model = AUTO.from_pretrained(directory)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(clips).logits, model(clips).logits, rtol=0, atol=1e-5)


def test_without_transformers():
    code = (
        "import sys, xvit.models.xvit; assert 'transformers' not in sys.modules\n"
        "sys.modules['transformers'] = None; import xvit.transformers"
    )
    exit_code, _, error = WarmProcess("-c", code).wait()
    assert exit_code == 1
    assert "ImportError: xvit.transformers needs transformers" in error
    assert "pip install 'xvit[transformers]'" in error


def test_opens_checkpoint_without_preprocessor_config(directory, clips, tmp_path):
    shutil.copytree(directory, tmp_path / "copy")
    (tmp_path / "copy" / "preprocessor_config.json").unlink()
    assert torch.equal(AUTO.from_pretrained(tmp_path / "copy")(clips).logits, XViT.from_pretrained(directory)(clips))
