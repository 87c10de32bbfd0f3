"""A `Stream` that skips what repeats, compared bit for bit with one that computes everything."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.utils.flop_counter import FlopCounterMode

from helpers.streams import SIZE, make_noisy_model, model_options
from xvit.models.streaming import Stream

# Which of five pictures each push shows, and how often in a row.
scenes = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1, 1, 2, 3, 5, 12])), min_size=1, max_size=6)


def make_pictures(*, batch=1, frames_per_push=1):
    torch.manual_seed(7)
    return torch.randn(5, batch, frames_per_push, 3, SIZE, SIZE)


def count_runs(model):
    """A counter of how often each block, the patch embedding and the temporal head have run."""
    runs = Counter()
    modules = {
        "embed": model.backbone.patch_embed,
        "head": model.temporal_head,
        **dict(enumerate(model.backbone.blocks)),
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: runs.update([name]))
    return runs


def assert_same_output(output, expected):
    assert output.indices == expected.indices
    assert torch.equal(output.frames, expected.frames)
    assert torch.equal(output.logits, expected.logits)


def assert_same_state(stream, other):
    state, expected = stream.state(), other.state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def continue_from_saved(stream):
    """A stream that continues from the saved and loaded state of another one."""
    loaded = Stream(stream.model, predict_every=stream.predict_every)
    loaded.load_state(load(save(stream.state())))
    return loaded


variants = st.one_of(
    model_options,
    st.fixed_dictionaries(
        {
            "attention": st.sampled_from(["mixing", "spatial"]),
            "causal": st.just(True),
            "summary_tokens": st.sampled_from([1, 4]),
            "num_frames": st.sampled_from([1, 3]),
        }
    ),
    st.fixed_dictionaries({"attention": st.just("spatial"), "num_frames": st.sampled_from([1, 3])}),
)


@settings(max_examples=150, deadline=None)
@given(options=variants, scenes=scenes, batch=st.integers(1, 2), data=st.data())
def test_outputs_and_states_are_the_same_bits(options, scenes, batch, data):
    model = make_noisy_model(**options)
    frames_per_push = data.draw(st.sampled_from([1, 1, 2]), label="frames per push")
    predict_every = data.draw(st.sampled_from([1, 1, 3]), label="predict_every")
    resume = data.draw(st.sampled_from([None, Stream.copy, continue_from_saved]), label="resume")
    pictures = make_pictures(batch=batch, frames_per_push=frames_per_push)
    skipping = Stream(model, predict_every=predict_every)
    computing = Stream(model, predict_every=predict_every, skip_repeats=False)
    pushes = [picture for picture, times in scenes for _ in range(times)]
    resume_at = data.draw(st.integers(0, len(pushes) - 1), label="resume at") if resume else -1
    for index, picture in enumerate(pushes):
        if index == resume_at:
            skipping = resume(skipping)
        assert_same_output(skipping.push(pictures[picture]), computing.push(pictures[picture]))
        assert_same_state(skipping, computing)
    assert_same_output(skipping.flush(), computing.flush())


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("num_frames", [1, 4])
def test_each_layer_runs_until_its_frames_are_equal(window, num_frames):
    """Of F equal frames, the causal mixing block i runs on the first w (i + 1) + 1: its output then repeats."""
    model = make_noisy_model(causal=True, window=window, num_frames=num_frames, backbone_kwargs=DEEP)
    pictures, runs, stream = make_pictures(), count_runs(model), Stream(model)
    for picture in (0, 1):  # the second picture takes as long as the first
        runs.clear()
        for _ in range(3 * window + num_frames + 5):
            stream.push(pictures[picture])
        layers = {layer: window * (layer + 1) + 1 for layer in range(3)}
        # The vectors are equal from frame 3 w + 1 on: after T of them, the head's input repeats.
        assert runs == {"embed": 1, **layers, "head": 3 * window + num_frames}
        assert stream.num_reused == (picture + 1) * (num_frames + 4)  # frames for which not even the last block ran


DEEP = {"img_size": SIZE, "patch_size": 8, "depth": 3, "embed_dim": 16, "num_heads": 2}


def test_layers_without_mixing_run_once():
    model = make_noisy_model(causal=True, window=2, mixing_layers=(1,), num_frames=1, backbone_kwargs=DEEP)
    pictures, runs, stream = make_pictures(), count_runs(model), Stream(model)
    for _ in range(9):
        stream.push(pictures[0])
    assert runs == {"embed": 1, 0: 1, 1: 3, 2: 3, "head": 3}
    spatial = make_noisy_model(attention="spatial", num_frames=1)
    runs, stream = count_runs(spatial), Stream(spatial)
    for _ in range(9):
        stream.push(pictures[0])
    assert runs == {"embed": 1, 0: 1, 1: 1, "head": 1}


@pytest.mark.parametrize(
    "options",
    [
        {"causal": False, "window": 2},
        {"causal": True, "summary_tokens": 4},
        {"causal": True, "mix_inputs": "x", "temporal_padding": "replicate"},
    ],
    ids=["centered", "summaries", "tokens"],
)
@pytest.mark.parametrize(("frames_per_push", "predict_every"), [(1, 1), (2, 1), (1, 3)])
def test_a_still_picture_costs_nothing(options, frames_per_push, predict_every):
    model = make_noisy_model(num_frames=4, **options)
    picture = make_pictures(batch=2, frames_per_push=frames_per_push)[0]
    stream = Stream(model, predict_every=predict_every)
    for _ in range(20):
        stream.push(picture)
    with FlopCounterMode(display=False) as counter:
        outputs = [stream.push(picture) for _ in range(6)]
    assert counter.get_total_flops() == 0
    assert sum(len(output.indices) for output in outputs) == 6 * frames_per_push / predict_every


def test_nothing_is_skipped_if_one_stream_of_the_batch_moves():
    model = make_noisy_model(causal=True)
    runs, stream = count_runs(model), Stream(model)
    still, moving = torch.randn(1, 1, 3, SIZE, SIZE), torch.randn(7, 1, 3, SIZE, SIZE)
    for frame in moving:
        stream.push(torch.cat([still, frame[None]]))
    assert runs == {"embed": 7, 0: 7, 1: 7, "head": 7}


def test_a_push_of_another_number_of_frames_is_computed():
    """Its sums can be rounded differently, so it is not taken for a repetition."""
    model = make_noisy_model(causal=True)
    picture = make_pictures()[0]
    skipping, computing = Stream(model), Stream(model, skip_repeats=False)
    for frames in (*[1] * 9, 3, 3, 1, 2, 2, 2, 2, 2, 1):
        part = picture.expand(-1, frames, -1, -1, -1)
        assert_same_output(skipping.push(part), computing.push(part))
        assert_same_state(skipping, computing)


def test_callers_may_reuse_their_frames_and_change_the_outputs():
    model = make_noisy_model(causal=True)
    pictures, computing, stream = make_pictures(), Stream(model, skip_repeats=False), Stream(model)
    frame = torch.empty_like(pictures[0])
    for picture in [0] * 9 + [1] * 9:
        output = stream.push(frame.copy_(pictures[picture]))
        assert_same_output(output, computing.push(pictures[picture]))
        output.logits.zero_()
        output.frames.zero_()


def test_another_image_size_in_between_does_not_matter():
    """Summaries need the grid of their own stream's frames."""
    model = make_noisy_model(causal=True, summary_tokens=4)
    picture = make_pictures()[0]
    skipping, computing, other = Stream(model), Stream(model, skip_repeats=False), Stream(model)
    for _ in range(9):
        assert_same_output(skipping.push(picture), computing.push(picture))
        other.push(torch.randn(1, 1, 3, 2 * SIZE, 3 * SIZE))


def test_reset_forgets_what_repeats():
    model = make_noisy_model(causal=True)
    picture, stream = make_pictures()[0], Stream(model)
    for _ in range(9):
        stream.push(picture)
    stream.reset()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(1.5)
    assert_same_output(stream.push(picture), Stream(model).push(picture))
