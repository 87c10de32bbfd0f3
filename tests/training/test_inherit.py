"""A run that starts from a trained model takes over its settings, through the command line as a user types it."""

import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from helpers.color_videos import CLASSES, write_videos
from xvit.checkpoint import read_metadata
from xvit.config import ModelConfig, flatten, from_dict, to_dict
from xvit.models.xvit import XViT


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("colors"), train=2, val=1)


@pytest.fixture
def settings(run, checkpoint):
    """A function that returns the settings of `xvit train --init.checkpoint_path CHECKPOINT ...`, and what it logs."""

    def settings(*words, source=checkpoint):
        code, out, err = run("train", "--init.checkpoint_path", source, *words, "--print-config")
        assert code == 0, err
        return flatten(yaml.safe_load(out)), err

    return settings


@pytest.fixture
def own(checkpoint):
    """The settings of the trained model, without those that follow from the data set."""
    metadata = read_metadata(checkpoint)
    values = flatten({"model": to_dict(metadata.model), "clip": to_dict(metadata.clip_spec)})
    return values | {"model.num_classes": 0, "model.multi_label": False}


def differing(before, after):
    """The settings of the model and the clip that are not those before."""
    keys = [key for key in before | after if key.startswith(("model.", "clip."))]
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def test_finetune_from_a_trained_model(run, checkpoint, colors, tmp_path):
    """The packaged recipe (bf16, averaged weights, three views), on a CPU; resumed after the trained model is gone."""
    source = shutil.copytree(checkpoint, tmp_path / "trained" / "best")
    words = ["train", "--config", "finetune", "--init.checkpoint_path", source, "--data.root", colors]
    words += ["--output", tmp_path / "new", "--train.epochs", "2", "--data.num_workers", "0"]
    code, out, err = run(*words)
    assert code == 0, err
    backbone = "vit_tiny_patch16_224 (img_size=48, patch_size=16, depth=2, embed_dim=24, num_heads=2)"
    assert f"from {source}: {backbone}, mixing attention, 4 frames (" in err
    assert "), 48 px; changed: model.dropout 0.0 -> 0.1, model.backbone_kwargs.drop_path_rate unset -> 0.1\n" in err
    assert f"{source}: " in err
    assert "tensors loaded; new classifier (2)" in err
    assert "validation uses one view per video, for speed; those of the recipe, 1 x 3 views" in err
    assert "--eval.spatial_views 3" in out
    trained, model = XViT.from_pretrained(checkpoint), XViT.from_pretrained(tmp_path / "new" / "best")
    assert model.clip_spec == trained.clip_spec
    assert model.class_names == list(CLASSES)
    same = to_dict(trained.config) | {"num_classes": 3, "dropout": 0.1}
    assert to_dict(model.config) == same | {"backbone_kwargs": {**same["backbone_kwargs"], "drop_path_rate": 0.1}}
    shutil.rmtree(source.parent)
    code, out, err = run(*words, "--resume")
    assert (code, "best epoch" in out) == (0, True)


def test_nothing_is_stated(settings, own):
    after, err = settings()
    assert differing(own, after) == {}
    assert "changed" not in err


@pytest.mark.parametrize(("words", "changed"), [
    ("--model.num_frames 6", {"model.num_frames": 6, "clip.num_frames": 6}),
    ("--clip.num_frames 6", {"model.num_frames": 6, "clip.num_frames": 6}),
    ("--model.num_frames 8", {"model.num_frames": 8, "clip.num_frames": 8}),  # as in the defaults, but stated
    ("--model.attention joint", {"model.attention": "joint"}),
    ("--model.attention=divided", {"model.attention": "divided"}),
    ("--model.causal true --model.temporal-position head", {"model.causal": True, "model.temporal_position": "head"}),
    ("--clip.image_size 96", {"clip.image_size": 96}),
    ("--clip.sampling strided --clip.stride 2", {"clip.sampling": "strided", "clip.stride": 2}),
    ("--model.backbone_kwargs.drop_path_rate 0.2", {"model.backbone_kwargs.drop_path_rate": 0.2}),
    ('--model.backbone_kwargs {"drop_path_rate":0.2}', {"model.backbone_kwargs.drop_path_rate": 0.2}),
    ("--model.advanced.temporal_layers 2", {"model.advanced.temporal_layers": 2}),
])  # fmt: skip
def test_stated_settings_win(settings, own, words, changed):
    after, err = settings(*words.split())
    changed = {key: value for key, value in changed.items() if own.get(key) != value}
    assert differing(own, after) == changed
    assert all(f"{key} {own.get(key, 'unset')} -> {value}" in err for key, value in changed.items())


def test_a_recipe_states_settings_and_the_command_line_overrides_it(settings, own, tmp_path):
    recipe = tmp_path / "mine.yaml"
    text = "model: {window: 2, attention: local}\nclip: {image_size: 64}\ninit: {pretrained: true}\ntrain: {lr: 0.5}\n"
    recipe.write_text(text)
    after, _ = settings("--config", recipe, "--clip.image_size", "96")
    assert differing(own, after) == {"model.window": 2, "model.attention": "local", "clip.image_size": 96}
    assert (after["train.lr"], after["init.pretrained"]) == (0.5, False)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"model": {"num_frames": 6}}))
    after, _ = settings("--config", tmp_path / "again.yaml")
    assert differing(own, after) == {"model.num_frames": 6, "clip.num_frames": 6}


def test_the_streaming_recipe_makes_a_centered_model_causal(settings, tmp_path, run):
    """docs/guides/streaming.md: the recipe states the whole model, so that nothing is taken over."""
    out = run("train", "--config", "motion", "--print-config")[1]
    centered = XViT(from_dict(ModelConfig, yaml.safe_load(out)["model"] | {"num_classes": 2}, "motion"))
    centered.save_pretrained(tmp_path / "centered")
    after, _ = settings("--config", "motion-streaming", source=tmp_path / "centered")
    assert (after["model.causal"], after["model.temporal_position"], after["clip.sampling"]) == (
        True,
        "head",
        "strided",
    )


@pytest.mark.parametrize(("stated", "named"), [
    ({"backbone": "vit_base_patch16_224"}, "model.backbone=vit_base_patch16_224 from {} (its own: vit_tiny_patch16_"),
    ({"backbone_kwargs": {"depth": 3}}, "model.backbone_kwargs.depth=3 from {} (its own: 2)"),
    ({"backbone_kwargs": {"embed_dim": 48}}, "model.backbone_kwargs.embed_dim=48 from {} (its own: 24)"),
    ({"backbone_kwargs": {"num_heads": 3}}, "model.backbone_kwargs.num_heads=3 from {} (its own: 2)"),
    ({"backbone_kwargs": {"mlp_ratio": 2.0}}, "model.backbone_kwargs.mlp_ratio=2.0 from {} (its own: unset)"),
])  # fmt: skip
@pytest.mark.parametrize("place", ["recipe", "the command line"])
def test_weights_that_do_not_fit_are_one_error(cli_error, checkpoint, colors, tmp_path, stated, named, place):
    recipe, output = tmp_path / "recipe", tmp_path / "new"
    recipe.write_text(yaml.safe_dump({"model": {**stated, "window": 2}} if place == "recipe" else {}))
    words = ["train", "--config", recipe, "--init.checkpoint_path", checkpoint, "--data.root", colors]
    words += ["--output", output]
    if place == "the command line":
        words += [f"--{key}={value}" for key, value in flatten({"model": stated}).items()]
    message = cli_error(*words)
    named = named.format(recipe if place == "recipe" else place)
    assert message.startswith(f"{checkpoint}: its weights cannot be used with {named}")
    assert "window" not in message
    assert "leave this setting out" in message
    assert not output.exists()


def test_all_contradictions_are_named_at_once(cli_error, checkpoint, tmp_path):
    words = ["train", "--init.checkpoint_path", checkpoint, "--data.root", tmp_path, "--output", tmp_path / "new"]
    message = cli_error(*words, "--model.backbone=vit_small_patch16_224", "--model.backbone_kwargs.depth=3")
    assert "model.backbone=vit_small_patch16_224" in message
    assert "model.backbone_kwargs.depth=3" in message
    assert "leave these settings out" in message
    assert 'Did you mean "vit_tiny_patch16_224' in cli_error(*words, "--model.backbone=vit_tinny_patch16_224")


def test_a_start_that_fails_leaves_nothing_behind(run, cli_error, checkpoint, colors, recipe, tmp_path):
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:5000])
    words = ["train", "--config", recipe, "--data.root", colors, "--output", tmp_path / "new", "--train.epochs", "1"]
    words += ["--init.checkpoint_path"]
    for source, message in (
        (damaged, "damaged or truncated"),
        (tmp_path / "none", "no such file or folder"),
        (colors, "not a checkpoint directory"),
    ):
        assert message in cli_error(*words, source)
        assert not (tmp_path / "new").exists()
    assert "choose one of them" in cli_error(*words, checkpoint, "--init.pretrained", "true")
    assert run(*words, checkpoint)[0] == 0


def test_a_file_of_image_weights_keeps_the_model_of_the_recipe(run, checkpoint, recipe, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    image = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    save_file(image, tmp_path / "image.safetensors")
    words = ["train", "--config", recipe, "--print-config"]
    before = flatten(yaml.safe_load(run(*words)[1]))
    code, out, err = run(*words, "--init.checkpoint_path", tmp_path / "image.safetensors")
    assert (code, err) == (0, "")
    assert differing(before, flatten(yaml.safe_load(out))) == {}
