"""Streams that are pushed together: each has the outputs that it has by itself."""

import pytest
import torch

from helpers.tiny import random_clip, tiny_model
from xvit import Stream
from xvit.config import as_task_dict
from xvit.models.stream_batches import StreamBatch, StreamState
from xvit.utils.errors import XViTError

MODELS = {
    "causal": {"causal": True, "temporal_position": "head"},
    "causal, summaries": {"causal": True, "temporal_position": "none", "summary_tokens": 1},
    "centered": {"causal": False, "temporal_position": "head"},
    "tasks": {"causal": True, "temporal_position": "head", "num_classes": {"verb": 3, "noun": 2}},
    "single frames": {"attention": "spatial", "num_frames": 1, "temporal_position": "none"},
}
# Frames of three streams in each round; 0: the stream does not take part. The second starts later.
ROUNDS = [(1, 0, 2), (1, 1, 1), (2, 2, 1), (1, 1, 1), (0, 3, 3), (1, 1, 1)]


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_outputs_are_those_of_single_streams(options):
    model = tiny_model(**options)
    videos = random_clip(T=sum(n for n, *_ in ROUNDS) + 4, B=3)
    batch, states, positions = StreamBatch(model), [StreamState() for _ in range(3)], [0, 0, 0]
    alone = [Stream(model) for _ in range(3)]
    for counts in ROUNDS:
        chosen = [i for i in range(3) if counts[i]]
        frames = [videos[i : i + 1, positions[i] : positions[i] + counts[i]] for i in chosen]
        outputs = batch.push([states[i] for i in chosen], frames)
        for i, output, new in zip(chosen, outputs, frames, strict=True):
            assert_same(output, alone[i].push(new))
            positions[i] += counts[i]
    for i in range(3):
        assert_same(batch.flush(states[i]), alone[i].flush())


def assert_same(output, expected) -> None:
    assert output.indices == expected.indices
    torch.testing.assert_close(output.frames, expected.frames, atol=1e-6, rtol=1e-5)
    found, logits = as_task_dict(output.logits), as_task_dict(expected.logits)
    assert found.keys() == logits.keys()
    for task in logits:
        torch.testing.assert_close(found[task], logits[task], atol=1e-6, rtol=1e-5)


def test_streams_in_the_same_state_share_one_pass(monkeypatch):
    model = tiny_model(**MODELS["causal"])
    batch, states = StreamBatch(model), [StreamState() for _ in range(3)]
    sizes, embed = [], model.embed
    monkeypatch.setattr(model, "embed", lambda frames: sizes.append(len(frames)) or embed(frames))
    frames = list(random_clip(T=1, B=3).split(1))
    batch.push(states, frames)
    batch.push([*states[:2], StreamState()], frames)
    assert sizes == [3, 2, 1]


def test_a_state_does_not_keep_the_memory_of_the_batch():
    model = tiny_model(**MODELS["causal"])
    states = [StreamState() for _ in range(8)]
    StreamBatch(model).push(states, list(random_clip(T=2, B=8).split(1)))
    assert states[0].tensors
    for tensor in states[0].tensors.values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_flush_before_any_push():
    with pytest.raises(XViTError, match=r"flush\(\) before any push"):
        StreamBatch(tiny_model(**MODELS["causal"])).flush(StreamState())


def test_a_model_that_cannot_be_streamed():
    with pytest.raises(XViTError, match="cannot be streamed"):
        StreamBatch(tiny_model(attention="joint"))
