"""The number of multiply-adds and the hash of a model."""

import pytest

from helpers.color_videos import make_model
from helpers.tiny import tiny_model
from xvit.models.profiling import count_macs, model_hash


def test_hash_depends_on_weights_and_settings(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    assert model_hash(type(model).from_pretrained(tmp_path / "model")) == model_hash(model)
    assert model_hash(make_model(window=2)) != model_hash(make_model(window=1))


@pytest.mark.parametrize("head", ["attention", "mean"])
def test_macs_match_a_count_by_hand(head):
    model = tiny_model(temporal_head=head)
    T, N, S, D, L = 4, 5, 4, 24, 3
    block = 12 * D * D  # qkv, proj and MLP of one token
    expected = T * (S * 3 * 16 * 16 * D + L * (N * block + 2 * N * N * D)) + 5 * D
    if head == "attention":
        expected += (T + 1) * block + 2 * (T + 1) ** 2 * D
    assert count_macs(model, all_tokens=True) == expected
    saved = T * (N - 1) * (9 * D * D + 2 * N * D)  # the last layer computes only class tokens
    assert count_macs(model) == expected - saved
    spatial = tiny_model(temporal_head=head, attention="spatial")
    assert count_macs(spatial) == expected - saved, "mixing costs no multiply-adds"
    assert count_macs(model, num_frames=8) > 2 * count_macs(model) - 10 * 12 * D * D
