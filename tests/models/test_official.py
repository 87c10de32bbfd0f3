"""The authors' checkpoints: values computed by their code, conversion of tensor names, invalid files."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.official import GOLDEN, OPTIONS, golden_clip, model_state
from xvit import load_official
from xvit.models.official import our_name, their_name
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def state(golden):
    return model_state(golden)


@torch.no_grad()
def test_golden_values(golden):
    model = load_official(GOLDEN, **OPTIONS)
    clip = golden_clip()
    frames = model.forward_features(clip).frames[0]
    torch.testing.assert_close(frames, golden["frame_features"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(clip), golden["logits"], atol=1e-5, rtol=0)
    other_ratio = load_official(GOLDEN, **(OPTIONS | {"mix_ratio": 0.5}))
    assert (other_ratio(clip) - golden["logits"]).abs().max() > 1e-4, "the mix ratio changes the logits"


@torch.no_grad()
def test_pickled_training_checkpoint(tmp_path, state, golden):
    """A .pyth file that also holds an epoch, a config and an unused layer: only tensors and plain values are read."""
    unused = {"new_fc.weight": torch.zeros(7, 24), "new_fc.bias": torch.zeros(7)}
    torch.save({"epoch": 30, "cfg": "A: 1\n", "model_state": state | unused}, tmp_path / "checkpoint.pyth")
    model = load_official(tmp_path / "checkpoint.pyth", **OPTIONS)
    torch.testing.assert_close(model(golden_clip()), golden["logits"], atol=1e-5, rtol=0)


def test_tensor_names_convert_in_both_directions(state):
    model = load_official(GOLDEN, **OPTIONS)
    assert {our_name(name) for name in state} == set(model.state_dict())
    assert {their_name(name) for name in model.state_dict()} == set(state)
    assert our_name("new_fc.weight") is None


@torch.no_grad()
def test_each_segment_uses_the_temporal_embedding():
    """With 8 frames in segments of 4, each segment has the frame vectors of a separate clip of 4 frames."""
    segmented = load_official(GOLDEN, **(OPTIONS | {"num_frames": 8}), segment_frames=4)
    single = load_official(GOLDEN, **OPTIONS)
    clip = golden_clip(8)
    frames = segmented.forward_features(clip).frames
    for segment in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(
            frames[:, segment], single.forward_features(clip[:, segment]).frames, atol=1e-6, rtol=0
        )


def test_temporal_embedding_is_interpolated_linearly(state):
    stored = state["base_model.temp_embed"][0, :, 0]
    resized = load_official(GOLDEN, **(OPTIONS | {"num_frames": 8})).temporal_position.weight[0]
    for i, position in enumerate(((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3).tolist()):
        low = min(int(position), 2)
        torch.testing.assert_close(resized[i], stored[low] + (position - low) * (stored[low + 1] - stored[low]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"base_model.blocks.999999.norm1.weight": torch.zeros(24)}),
            r"blocks.3.norm1.weight. is miss",
        ),
        (lambda s: s.update({"base_model.norm.bias": torch.zeros(24, dtype=torch.int8)}), "torch.int8"),
        (lambda s: s.update({"base_model.temp_embed": torch.zeros(1, 0, 1, 24)}), "temp_embed"),
        (
            lambda s: s.update({"base_model.patch_embed.proj.weight": torch.zeros(24, 768)}),
            "shapes of its tensors",
        ),
        (lambda s: s.update({"base_model.temp_embed": torch.zeros(3)}), r"temp_embed \(3,\), expected \(1, 4, 24\)"),
        (lambda s: s.pop("base_model.blocks.1.attn.qkv.bias"), "1 missing: base_model.blocks.1.attn.qkv.bias"),
        (lambda s: s.pop("consensus.mlp_head.4.weight"), '"consensus.mlp_head.4.weight" is missing'),
        (lambda s: s.update({"base_model.other": torch.zeros(1)}), "1 not used: base_model.other"),
        (lambda s: s.update({"base_model.norm.bias": torch.zeros(5)}), r"norm.bias \(5,\), expected \(24,\)"),
    ],
)
def test_invalid_tensors_are_named_in_the_error(tmp_path, state, change, message):
    changed = dict(state)
    change(changed)
    torch.save({"model_state": changed}, tmp_path / "c.pyth")
    with pytest.raises(XViTError, match=message):
        load_official(tmp_path / "c.pyth", **OPTIONS)


class MaliciousPickle:
    """An object that prints when it is unpickled."""

    def __reduce__(self):
        return (print, ("run!",))


def test_invalid_files(tmp_path, capsys):
    for name, write, message in [
        ("text.pyth", lambda p: p.write_text("hello"), "which are not loaded|damaged"),
        ("empty.pyth", lambda p: p.write_bytes(b""), "damaged"),
        ("truncated.safetensors", lambda p: p.write_bytes(GOLDEN.read_bytes()[:5000]), "damaged"),
        ("other.safetensors", lambda p: save_file({"weight": torch.zeros(1)}, p), "expected a mapping model_state"),
        ("list.pth", lambda p: torch.save([1, 2], p), "expected a mapping model_state"),
        ("malicious.pth", lambda p: torch.save({"model_state": MaliciousPickle()}, p), "which are not loaded"),
    ]:
        write(tmp_path / name)
        with pytest.raises(XViTError, match=message) as caught:
            load_official(tmp_path / name, **OPTIONS)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "run!" not in capsys.readouterr().out
    with pytest.raises(XViTError, match="no such file"):
        load_official(tmp_path / "none.pyth", **OPTIONS)


def test_num_heads_is_required_if_shapes_do_not_determine_it():
    with pytest.raises(XViTError, match="give the number of heads"):
        load_official(GOLDEN, num_frames=4)
