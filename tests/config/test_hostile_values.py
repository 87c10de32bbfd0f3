"""Settings that no recipe should have: numbers beyond any machine, YAML that is deep or stands for billions."""

from typing import Any

import pytest

from xvit.config import ClipSpec, ModelConfig, RunConfig, from_dict, model_config, read_config, read_yaml
from xvit.models.backbone import build_backbone
from xvit.utils.errors import XViTError

LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 30)
)
HOSTILE_YAML = {
    "deep lists": "model: " + "[" * 20_000,
    "closed deep lists": "model: " + "[" * 2000 + "]" * 2000,
    "deep mappings": "model: " + "{a: " * 2000 + "}" * 2000,
    "aliases for billions of values": LAUGHS + "model:\n  backbone_kwargs: {depth: *a29}\n",
    "a mapping within itself": "model: &m\n  advanced: *m\n",
    "a list as a key": "? [a, b]\n: 1\n",
    "a mapping as a key": "{a: 1}: 2\n",
    "a merge of a number": "model:\n  <<: 5\n",
    "5000 digits": "train:\n  epochs: " + "9" * 5000 + "\n",
    "a tag": "model: !!python/object/apply:os.system [echo]\n",
    "a binary tag": "model: !!binary nonsense===\n",
    "a date that is none": "train: !!timestamp 99999-99-99\n",
    "an alias of nothing": "model: *m\n",
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_an_error_of_one_line(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE_YAML[name])
    with pytest.raises(XViTError) as caught:
        read_config(RunConfig, path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400


def test_aliases_and_merges_of_a_usual_size_are_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb:\n  <<: *a\n  x: 2\nc: [*a, *a]\n")
    assert read_yaml(path)["b"] == {"x": 2, "y": [1, 2]}


NUMBERS: dict[str, tuple[type, dict[str, Any]]] = {
    "frames": (ClipSpec, {"num_frames": 10**6}),
    "image size": (ClipSpec, {"image_size": 10**6}),
    "pixels of a clip": (ClipSpec, {"num_frames": 2000, "image_size": 1000}),
    "stride": (ClipSpec, {"sampling": "strided", "stride": 10**18}),
    "model frames": (ModelConfig, {"num_frames": 10**6}),
    "classes": (ModelConfig, {"num_classes": 10**9}),
    "classes of a task": (ModelConfig, {"num_classes": {"verb": 10**9}}),
    "summary tokens": (ModelConfig, {"summary_tokens": 10**6}),
    "merged tokens": (ModelConfig, {"tome_r": 10**9}),
    "window": (ModelConfig, {"window": 10**9}),
    "temporal layers": (ModelConfig, {"advanced": {"temporal_layers": 10**6}}),
    "classifier": (ModelConfig, {"advanced": {"classifier_hidden": 10**9}}),
    "segments": (ModelConfig, {"advanced": {"segment_frames": 10**9}}),
} | {
    name: (ModelConfig, {"backbone_kwargs": {name: number}})
    for name, number in {
        "depth": 10**6,
        "embed_dim": 10**9,
        "num_heads": 10**7,
        "img_size": 10**6,
        "patch_size": 10**6,
        "mlp_ratio": 1e9,
        "reg_tokens": 10**8,
        "in_chans": 10**6,
    }.items()
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("huge", [False, True])
def test_a_number_beyond_any_model_is_refused_by_its_setting(name, huge):
    cls, values = NUMBERS[name]

    def replace(value):  # 400 digits cannot even become a float
        if isinstance(value, dict):
            return {key: replace(inner) for key, inner in value.items()}
        return value if isinstance(value, str) else 10**400

    with pytest.raises(XViTError) as caught:
        from_dict(cls, replace(values) if huge else values, "config.json")
    message = str(caught.value)
    assert message.startswith("config.json: ")
    assert "expected" in message
    assert len(message) < 300


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, 1e300, 0, -0.5, 1e-300])
@pytest.mark.parametrize("field", ["mean", "std"])
def test_mean_and_std_are_numbers_to_compute_with(field, value):
    values = (0.5, value, 0.5)
    if field == "mean" and value in (0, -0.5, 1e-300):
        assert ClipSpec(mean=values).mean == values
        return
    for make in (
        lambda: ClipSpec(**{field: values}),
        lambda: from_dict(ClipSpec, {field: list(values)}, "config.json"),
    ):
        with pytest.raises(XViTError, match=field):
            make()


def test_settings_of_real_models_are_within_the_limits():
    ClipSpec(num_frames=256, image_size=512)
    ClipSpec(num_frames=1024, image_size=256)
    ModelConfig(num_frames=128, num_classes=100_000, summary_tokens=196, backbone_kwargs={"img_size": 2048})


def test_summary_tokens_are_at_most_the_patches_of_a_frame():
    kwargs = {"img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 16, "num_heads": 2}
    options = {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": kwargs}
    build_backbone(model_config(summary_tokens=4, **options))
    with pytest.raises(XViTError, match="summary_tokens=9: expected at most one per patch of a frame, 4"):
        build_backbone(model_config(summary_tokens=9, **options))
