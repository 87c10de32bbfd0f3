"""A stream against the model run on all frames at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from helpers.color_videos import make_model
from xvit import create_model
from xvit.config import SINGLE_TASK
from xvit.models.streaming import Stream
from xvit.utils.errors import XViTError

SIZE = 16
models = st.fixed_dictionaries(
    {
        "window": st.integers(0, 3),
        "mix_ratio": st.sampled_from([0.0, 0.75, 0.875, 1.0]),
        "mix_inputs": st.sampled_from(["keys_values", "keys", "values", "x"]),
        "boundary_only": st.booleans(),
        "causal": st.booleans(),
        "grouping": st.sampled_from(["flat", "per_head"]),
        "temporal_padding": st.sampled_from(["zero", "replicate"]),
        "mixing_layers": st.sampled_from(["all", "odd", (1,)]),
        "temporal_head": st.sampled_from(["attention", "mean"]),
        "num_frames": st.sampled_from([1, 2, 4, 8]),
    }
)


def with_noise(model):
    """What starts at zero would hide mistakes."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def made(**options):
    options = {"temporal_position": "none" if options.get("temporal_head") == "mean" else "head", **options}
    return with_noise(make_model(3, **options))


@torch.no_grad()
def offline(model, video):
    """One clip of all frames through the backbone; at each frame the head over the last num_frames."""
    frames = model.forward_features(video).frames
    T = model.config.num_frames
    clips = [model.temporal_head(frames[:, max(0, t - T + 1) : t + 1]) for t in range(video.shape[1])]
    return frames, model.classifier(torch.stack(clips, dim=1))[SINGLE_TASK]


def streamed(model, video, cuts, **options):
    stream = Stream(model, **options)
    outputs, pushed, indices = [], 0, []
    for part in video.tensor_split(cuts, dim=1):
        outputs.append(stream.push(part))
        pushed, indices = pushed + part.shape[1], indices + outputs[-1].indices
        ready = range(max(0, pushed - stream.latency_frames))  # neither later nor earlier than these
        assert indices == [i for i in ready if (i + 1) % options.get("predict_every", 1) == 0]
    return stream, [*outputs, stream.flush()]


def joined(outputs):
    return (
        [index for output in outputs for index in output.indices],
        torch.cat([output.frames for output in outputs], dim=1),
        torch.cat([output.logits for output in outputs], dim=1),
    )


@settings(max_examples=120, deadline=None)
@given(options=models, length=st.integers(1, 64), batch=st.integers(1, 3), data=st.data())
def test_a_stream_is_the_model_on_all_frames_at_once(options, length, batch, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=6), label="cuts") - {length})
    every = data.draw(st.sampled_from([1, 1, 3]), label="every")
    model = made(**options)
    torch.manual_seed(length)
    video = torch.randn(batch, length, 3, SIZE, SIZE)
    frames, logits = offline(model, video)
    stream, outputs = streamed(model, video, cuts, predict_every=every)
    answered = list(range(every - 1, length, every))
    indices, found_frames, found_logits = joined(outputs)
    assert indices == answered
    torch.testing.assert_close(found_frames, frames[:, answered], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_logits, logits[:, answered], atol=1e-5, rtol=1e-5)
    mixing = 2 if options["mixing_layers"] == "all" else 1
    reads_ahead = not options["causal"] and options["mix_ratio"] and options["window"]
    assert stream.latency_frames == (mixing * options["window"] if reads_ahead else 0)


@pytest.mark.parametrize("summary_tokens", [1, 4])
@pytest.mark.parametrize("attention", ["keys_values", "x", "spatial"])
def test_summaries_of_a_causal_model(attention, summary_tokens):
    options = {"attention": "spatial"} if attention == "spatial" else {"mix_inputs": attention}
    model = made(**options, causal=True, summary_tokens=summary_tokens, num_frames=3)
    video = torch.randn(2, 11, 3, SIZE, SIZE)
    _, outputs = streamed(model, video, [1, 2, 7])  # before the model has seen a clip
    frames, logits = offline(model, video)
    loaded = Stream(model)
    loaded.load_state(Stream(model).state())
    assert torch.equal(loaded.push(video[:, :1]).frames, outputs[0].frames)
    _, found_frames, found_logits = joined(outputs)
    torch.testing.assert_close(found_frames, frames, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_logits, logits, atol=1e-5, rtol=1e-5)
    changed = video.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        other = model.forward_features(changed).frames
    assert torch.equal(other[:, :5], frames[:, :5])
    assert (other[:, 5:10] - frames[:, 5:10]).abs().amin(dim=(0, 2)).min() > 0  # two layers, each three frames back


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_reg4_dinov2",
        "vit_intern300m_patch14_448",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_rpn_224",
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_mixed_224",
    ],
)
def test_backbones(name, causal):
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 16}
    model = create_model(
        name,
        num_classes={"verb": 2, "noun": 3},
        num_frames=4,
        causal=causal,
        temporal_position="head",
        backbone_kwargs=kwargs,
    )
    video = torch.randn(1, 9, 3, 32, 32)
    with_noise(model)
    with torch.no_grad():
        frames = model.forward_features(video).frames
        first_clip = model(video[:, :4])
    _, outputs = streamed(model, video, [2, 3, 8])
    torch.testing.assert_close(torch.cat([o.frames for o in outputs], dim=1), frames, atol=1e-5, rtol=1e-5)
    if causal:  # the first T frames are a clip as in training
        logits = {task: torch.cat([o.logits[task] for o in outputs], dim=1)[:, 3] for task in first_clip}
        torch.testing.assert_close(logits, first_clip, atol=1e-5, rtol=1e-5)


def test_two_branches_wait_for_nothing_or_are_refused():
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32}
    options = {"num_classes": 2, "num_frames": 4, "temporal_position": "head", "backbone_kwargs": kwargs}
    model = with_noise(create_model("vit_small_patch16_18x2_224", causal=True, **options))
    video = torch.randn(1, 6, 3, 32, 32)
    _, outputs = streamed(model, video, [1, 4])
    torch.testing.assert_close(joined(outputs)[1], model.forward_features(video).frames.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(XViTError, match=r"centered mixing in a ParallelThingsBlock cannot .*causal=True"):
        Stream(create_model("vit_small_patch16_18x2_224", **options).eval())


def test_no_drift_and_constant_memory_over_10_000_frames():
    """A window of 10 009 to 10 016 seen alone, from long enough before that nothing earlier reaches it, is the same."""
    model = made(causal=True, window=1, num_frames=4)
    stream = Stream(model, predict_every=8)
    torch.manual_seed(0)
    bytes_seen, last = set(), []
    for _ in range(1252):
        part = torch.randn(1, 8, 3, SIZE, SIZE)
        last = [*last[-2:], part]
        output = stream.push(part)
        state = stream.state()
        bytes_seen.add((sum(t.numel() for t in state.values()), tuple(stream.block_bytes)))
    assert output.indices == [10_015]
    _, logits = offline(model, torch.cat(last, dim=1))
    torch.testing.assert_close(output.logits[:, -1], logits[:, -1], atol=1e-5, rtol=1e-5)
    assert len(bytes_seen) == 1
    # w frames of half the keys' and values' channels of 2 x 2 patches and the class token, 4 bytes each
    assert stream.block_bytes == [2 * 5 * 8 * 4] * 2
    storage = sum(t.untyped_storage().nbytes() for name, t in stream.tensors().items() if name != "frames")
    assert storage == sum(stream.block_bytes)  # no views of something larger


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
def test_copies_and_saved_states_go_on_by_themselves(causal):
    model = made(causal=causal, window=2, mix_ratio=0.5)
    video = torch.randn(2, 12, 3, SIZE, SIZE)
    _, logits = offline(model, video)
    stream = Stream(model)
    before = stream.push(video[:, :5])
    copied, state = stream.copy(), load(save(stream.state()))
    stream.push(torch.randn(2, 3, 3, SIZE, SIZE))
    stream.reset()
    loaded = Stream(model)
    loaded.load_state(state)
    for other in (copied, loaded):
        _, _, found = joined([before, other.push(video[:, 5:]), other.flush()])
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)
    again = joined([stream.push(video), stream.flush()])[2]  # after reset
    torch.testing.assert_close(again, logits, atol=1e-5, rtol=1e-5)


def test_the_model_is_left_as_it_was():
    model = made(causal=True)
    video = torch.randn(1, 4, 3, SIZE, SIZE)
    with torch.no_grad():
        before = model(video)
        Stream(model).push(video)
        assert torch.equal(model(video), before)
        with pytest.raises(RuntimeError):
            Stream(model).push(video.double())
        assert torch.equal(model(video), before)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
def test_each_new_frame_goes_through_the_layers_once(causal):
    """Rows of the first layer's projection and MLP, counted: as many frames as were pushed, with waiting or without."""
    model = made(causal=causal)
    rows = {"qkv": 0, "fc1": 0}
    for block in model.backbone.blocks:
        block.attn.qkv.register_forward_hook(lambda m, i, o: rows.update(qkv=rows["qkv"] + o[..., 0].numel()))
        block.mlp.fc1.register_forward_hook(lambda m, i, o: rows.update(fc1=rows["fc1"] + o[..., 0].numel()))
    stream = Stream(model)
    for _ in range(10):
        stream.push(torch.randn(1, 1, 3, SIZE, SIZE))
    stream.flush()
    # layers x frames x tokens; in the last of the two layers only class tokens go on
    assert rows == {"qkv": 2 * 10 * 5, "fc1": 10 * 5 + 10 * 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temporal_position": "input"}, "temporal_position='input'.*use temporal_position='head' or 'none'"),
        ({"attention": "joint"}, "attention='joint'.*use attention='mixing'"),
        ({"attention": "local"}, "attention='local'"),
        ({"attention": "divided"}, "attention='divided'"),
        ({"segment_frames": 2}, "segment_frames=2.*use segment_frames=0"),
        ({"summary_tokens": 1}, "summary_tokens=1.*use causal=True"),
    ],
)
def test_what_cannot_be_streamed_exactly_is_refused(options, said):
    with pytest.raises(XViTError, match=said):
        Stream(made(**options))


def test_wrong_use_is_refused():
    model = made(causal=True)
    with pytest.raises(XViTError, match="predict_every=0"):
        Stream(model, predict_every=0)
    with pytest.raises(XViTError, match="training mode"):
        Stream(made().train())
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
        Stream(made(causal=True, window=3)).load_state(Stream(model).state())
