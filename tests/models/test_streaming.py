"""`Stream`, compared with the model run on all frames at once."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from helpers.streams import SIZE, add_noise, make_noisy_model, model_options
from xvit import create_model
from xvit.config import SINGLE_TASK
from xvit.models.streaming import Stream
from xvit.utils.errors import XViTError


@torch.no_grad()
def offline(model, video):
    """Frame vectors of the video as one clip, and at each frame the logits of the last num_frames of them."""
    frames = model.forward_features(video).frames
    T = model.config.num_frames
    clips = [model.temporal_head(frames[:, max(0, t - T + 1) : t + 1]) for t in range(video.shape[1])]
    return frames, model.classifier(torch.stack(clips, dim=1))[SINGLE_TASK]


def stream_parts(model, video, cuts, **options):
    """Push the video in parts; returns the stream and its outputs."""
    stream = Stream(model, **options)
    outputs, pushed, indices = [], 0, []
    for part in video.tensor_split(cuts, dim=1):
        outputs.append(stream.push(part))
        pushed, indices = pushed + part.shape[1], indices + outputs[-1].indices
        ready = range(max(0, pushed - stream.latency_frames))  # each prediction is returned as soon as it can be
        assert indices == [i for i in ready if (i + 1) % options.get("predict_every", 1) == 0]
    return stream, [*outputs, stream.flush()]


def concatenate(outputs):
    """Indices, frame vectors and logits of several outputs."""
    return (
        [index for output in outputs for index in output.indices],
        torch.cat([output.frames for output in outputs], dim=1),
        torch.cat([output.logits for output in outputs], dim=1),
    )


@settings(max_examples=120, deadline=None)
@given(options=model_options, length=st.integers(1, 64), batch=st.integers(1, 3), data=st.data())
def test_stream_matches_the_model_on_all_frames(options, length, batch, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=6), label="cuts") - {length})
    predict_every = data.draw(st.sampled_from([1, 1, 3]), label="predict_every")
    model = make_noisy_model(**options)
    torch.manual_seed(length)
    video = torch.randn(batch, length, 3, SIZE, SIZE)
    frames, logits = offline(model, video)
    stream, outputs = stream_parts(model, video, cuts, predict_every=predict_every)
    expected_indices = list(range(predict_every - 1, length, predict_every))
    indices, stream_frames, stream_logits = concatenate(outputs)
    assert indices == expected_indices
    torch.testing.assert_close(stream_frames, frames[:, expected_indices], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stream_logits, logits[:, expected_indices], atol=1e-5, rtol=1e-5)
    num_mixing_layers = 2 if options["mixing_layers"] == "all" else 1
    uses_future_frames = not options["causal"] and options["mix_ratio"] and options["window"]
    assert stream.latency_frames == (num_mixing_layers * options["window"] if uses_future_frames else 0)


@pytest.mark.parametrize("summary_tokens", [1, 4])
@pytest.mark.parametrize("attention", ["keys_values", "x", "spatial"])
def test_summary_tokens_of_a_causal_model(attention, summary_tokens):
    options = {"attention": "spatial"} if attention == "spatial" else {"mix_inputs": attention}
    model = make_noisy_model(**options, causal=True, summary_tokens=summary_tokens, num_frames=3)
    video = torch.randn(2, 11, 3, SIZE, SIZE)
    _, outputs = stream_parts(model, video, [1, 2, 7])  # before the model has processed a clip
    frames, logits = offline(model, video)
    loaded = Stream(model)
    loaded.load_state(Stream(model).state())
    assert torch.equal(loaded.push(video[:, :1]).frames, outputs[0].frames)
    _, stream_frames, stream_logits = concatenate(outputs)
    torch.testing.assert_close(stream_frames, frames, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stream_logits, logits, atol=1e-5, rtol=1e-5)
    changed = video.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        changed_frames = model.forward_features(changed).frames
    assert torch.equal(changed_frames[:, :5], frames[:, :5])
    # Two layers with a window of 3 frames.
    assert (changed_frames[:, 5:10] - frames[:, 5:10]).abs().amin(dim=(0, 2)).min() > 0


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_summaries_of_one_clip_less_one_frame_are_kept(num_frames):
    model = make_noisy_model(causal=True, summary_tokens=4, num_frames=num_frames)
    video = torch.randn(1, 7, 3, SIZE, SIZE)
    stream, outputs = stream_parts(model, video, [1, 2, 6])
    torch.testing.assert_close(concatenate(outputs)[1], offline(model, video)[0], atol=1e-5, rtol=1e-5)
    kept = {name: tensor.shape[1] for name, tensor in stream.tensors().items() if "summary" in name}
    names = [f"blocks.{block}.0.past_summary_{kind}" for block in range(2) for kind in "kv"]
    assert kept == ({name: 4 * (num_frames - 1) for name in names} if num_frames > 1 else {})


BACKBONES = [
    "vit_small_patch14_reg4_dinov2",
    "vit_intern300m_patch14_448",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_rpn_224",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_mixed_224",
]


@pytest.mark.parametrize(
    ("name", "causal", "mix_inputs"),
    [*product(BACKBONES, (True, False), ["keys_values"]), ("vit_small_patch16_dinov3", True, "x")],
)
def test_stream_matches_the_model_for_each_backbone(name, causal, mix_inputs):
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 16}
    model = create_model(
        name,
        num_classes={"verb": 2, "noun": 3},
        num_frames=4,
        causal=causal,
        mix_inputs=mix_inputs,
        temporal_position="head",
        backbone_kwargs=kwargs,
    )
    video = torch.randn(1, 9, 3, 32, 32)
    add_noise(model)
    with torch.no_grad():
        frames = model.forward_features(video).frames
        first_clip = model(video[:, :4])
    _, outputs = stream_parts(model, video, [2, 3, 8])
    torch.testing.assert_close(torch.cat([o.frames for o in outputs], dim=1), frames, atol=1e-5, rtol=1e-5)
    if causal:  # the first T frames are a clip as seen in training
        logits = {task: torch.cat([o.logits[task] for o in outputs], dim=1)[:, 3] for task in first_clip}
        torch.testing.assert_close(logits, first_clip, atol=1e-5, rtol=1e-5)


def test_parallel_branches_stream_only_in_causal_models():
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32}
    options = {"num_classes": 2, "num_frames": 4, "temporal_position": "head", "backbone_kwargs": kwargs}
    model = add_noise(create_model("vit_small_patch16_18x2_224", causal=True, **options))
    video = torch.randn(1, 6, 3, 32, 32)
    _, outputs = stream_parts(model, video, [1, 4])
    torch.testing.assert_close(
        concatenate(outputs)[1], model.forward_features(video).frames.detach(), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(XViTError, match=r"centered mixing in a ParallelThingsBlock cannot .*causal=True"):
        Stream(create_model("vit_small_patch16_18x2_224", **options).eval())


def test_no_drift_and_constant_memory_over_10_000_frames():
    """The last frames equal those of a short clip that starts early enough to contain all frames they depend on."""
    model = make_noisy_model(causal=True, window=1, num_frames=4)
    stream = Stream(model, predict_every=32)
    torch.manual_seed(0)
    sizes, recent_parts = set(), []
    for _ in range(313):
        part = torch.randn(1, 32, 3, SIZE, SIZE)
        recent_parts = [*recent_parts[-2:], part]
        output = stream.push(part)
        state = stream.state()
        sizes.add((sum(t.numel() for t in state.values()), tuple(stream.block_bytes)))
    assert output.indices == [10_015]
    _, logits = offline(model, torch.cat(recent_parts, dim=1))
    torch.testing.assert_close(output.logits[:, -1], logits[:, -1], atol=1e-5, rtol=1e-5)
    assert len(sizes) == 1
    # w frames x 2 (keys, values) x 5 tokens (2 x 2 patches, class token) x 8 channels x 4 bytes
    assert stream.block_bytes == [2 * 5 * 8 * 4] * 2
    storage = sum(t.untyped_storage().nbytes() for name, t in stream.tensors().items() if name != "frames")
    assert storage == sum(stream.block_bytes)  # no tensor is a view of a larger one


@pytest.mark.parametrize(("causal", "predict_every"), [(True, 1), (False, 3)], ids=["causal", "centered"])
def test_copies_and_saved_states_are_independent(causal, predict_every):
    model = make_noisy_model(causal=causal, window=2, mix_ratio=0.5)
    video = torch.randn(2, 12, 3, SIZE, SIZE)
    logits = offline(model, video)[1][:, predict_every - 1 :: predict_every]
    stream = Stream(model, predict_every=predict_every)
    before = stream.push(video[:, :5])
    assert all(tensor.numel() for tensor in stream.tensors().values())
    copied, state = stream.copy(), load(save(stream.state()))
    stream.push(torch.randn(2, 3, 3, SIZE, SIZE))
    stream.reset()
    loaded = Stream(model, predict_every=predict_every)
    loaded.load_state(state)
    for other in (copied, loaded):
        _, _, resumed = concatenate([before, other.push(video[:, 5:]), other.flush()])
        torch.testing.assert_close(resumed, logits, atol=1e-5, rtol=1e-5)
        with pytest.raises(XViTError, match=r"push\(\) after flush\(\)"):
            other.copy().push(video)
    after_reset = concatenate([stream.push(video), stream.flush()])[2]
    torch.testing.assert_close(after_reset, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 2, 16])  # 16: as many as channels
def test_frames_of_one_clip_less_one_are_kept(num_frames):
    model = make_noisy_model(causal=True, num_frames=num_frames)
    video = torch.randn(1, 18, 3, SIZE, SIZE)
    stream, outputs = stream_parts(model, video, [2, 3])
    torch.testing.assert_close(concatenate(outputs)[2], offline(model, video)[1], atol=1e-5, rtol=1e-5)
    kept = stream.tensors()
    assert (kept["frames"].shape[1] if "frames" in kept else 0) == num_frames - 1


def test_a_state_fits_a_model_with_the_same_settings_in_another_order():
    name, options = "vit_tiny_patch16_224", {"num_classes": 2, "temporal_position": "none"}
    kwargs = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": SIZE, "patch_size": 8}
    models = [
        create_model(name, **options, backbone_kwargs=dict(items)).eval()
        for items in (kwargs.items(), reversed(kwargs.items()))
    ]
    Stream(models[1]).load_state(Stream(models[0]).state())


def test_streaming_leaves_the_model_unchanged():
    model = make_noisy_model(causal=True)
    model.backbone.blocks[0].register_module("unused", None)
    video = torch.randn(1, 4, 3, SIZE, SIZE)
    with torch.no_grad():
        before = model(video)
        Stream(model).push(video)
        assert torch.equal(model(video), before)
        middle = model.backbone.blocks[-1].mlp
        with middle.register_forward_pre_hook(lambda *_: 1 / 0), pytest.raises(ZeroDivisionError):
            Stream(model).push(video)
        assert torch.equal(model(video), before)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
def test_each_frame_is_computed_once(causal):
    """Count the tokens that pass through the projections and MLPs, in causal and centered models."""
    model = make_noisy_model(causal=causal)
    rows = {"qkv": 0, "fc1": 0}
    for block in model.backbone.blocks:
        block.attn.qkv.register_forward_hook(lambda m, i, o: rows.update(qkv=rows["qkv"] + o[..., 0].numel()))
        block.mlp.fc1.register_forward_hook(lambda m, i, o: rows.update(fc1=rows["fc1"] + o[..., 0].numel()))
    stream = Stream(model)
    for _ in range(10):
        stream.push(torch.randn(1, 1, 3, SIZE, SIZE))
    stream.flush()
    # layers x frames x tokens; in the last of the two layers only class tokens pass through the MLP
    assert rows == {"qkv": 2 * 10 * 5, "fc1": 10 * 5 + 10 * 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temporal_position": "input"}, "temporal_position='input'.*use temporal_position='head' or 'none'"),
        ({"attention": "joint"}, "attention='joint'.*use attention='mixing'"),
        ({"attention": "local"}, "attention='local'"),
        ({"attention": "divided"}, "attention='divided'"),
        ({"tubelet_size": 2}, "tubelet_size=2, tome_r=0 cannot.*use tubelet_size=1 and tome_r=0"),
        ({"tome_r": 1}, "tubelet_size=1, tome_r=1 cannot.*use tubelet_size=1 and tome_r=0"),
        ({"segment_frames": 2}, "segment_frames=2.*use segment_frames=0"),
        ({"summary_tokens": 1}, "summary_tokens=1.*use causal=True"),
    ],
)
def test_models_that_cannot_be_streamed_exactly(options, message):
    with pytest.raises(XViTError, match=message):
        Stream(make_noisy_model(**options))


def test_invalid_use():
    model = make_noisy_model(causal=True)
    with pytest.raises(XViTError, match="predict_every=0"):
        Stream(model, predict_every=0)
    with pytest.raises(XViTError, match="training mode"):
        Stream(make_noisy_model().train())
    stream = Stream(model)
    with pytest.raises(XViTError, match=r"flush\(\) before any push\(\)"):
        stream.flush()
    with pytest.raises(XViTError, match="expected 5 dimensions"):
        stream.push(torch.randn(1, 3, SIZE, SIZE))
    stream.push(torch.randn(1, 2, 3, SIZE, SIZE))
    for shape in ((2, 1, 3, SIZE, SIZE), (1, 1, 3, 2 * SIZE, SIZE)):
        with pytest.raises(XViTError, match=r"after \(1, 3, 16, 16\): call reset\(\) first"):
            stream.push(torch.randn(shape))
    stream.flush()
    with pytest.raises(XViTError, match=r"push\(\) after flush\(\)"):
        stream.push(torch.randn(1, 1, 3, SIZE, SIZE))
    with pytest.raises(XViTError, match="not a stream state of this model"):
        stream.load_state({"ring": torch.zeros(1)})
    with pytest.raises(XViTError, match="its settings differ"):
        Stream(make_noisy_model(causal=True, window=3)).load_state(Stream(model).state())
    for name in ("blocks.9.pending", "blocks.x.0.past_k0", "blocks.0.0"):
        with pytest.raises(XViTError, match=r"not a stream state of this model: damaged \(\w+Error: .+\)$"):
            Stream(model).load_state(Stream(model).state() | {name: torch.zeros(1)})
