"""Parsing: errors in one line, recipes, settings that override them."""

import yaml

from xvit.config import RunConfig, from_dict


def test_argument_errors_are_explained_in_one_line(cli_error):
    words = ("data", "motion", "--output", "x")
    assert 'unknown option --clips-per-clas. Did you mean "--clips-per-class"?' in cli_error(
        *words, "--clips-per-clas", "3"
    )
    assert cli_error(*words, "--clips-per-class", "few") == "--clips_per_class: expected int, got few"
    assert "--output: missing" in cli_error("data", "motion")
    assert 'unexpected argument "surplus"' in cli_error("info", "surplus")
    assert "VIDEOS, --checkpoint: missing" in cli_error("predict")
    assert 'one of mixing, spatial, local, joint, divided, got mixin. Did you mean "mixing"?' in cli_error(
        "info", "--attention", "mixin"
    )
    assert cli_error("info", "--num-frames", "0") == "num_frames=0: expected a number, at least 1"
    assert (
        cli_error("predict", "x.mp4", "--checkpoint", "x", "--top-k", "0") == "top_k=0: expected a number, at least 1"
    )


def test_command_line_overrides_the_recipe(run, recipe, tmp_path):
    words = ["train", "--config", recipe, "--train.epochs=9", "--model.num-frames", "4", "--print-config"]
    code, out, err = run(*words, "--model.advanced.mix-inputs", "x")
    assert (code, err) == (0, "")
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    config = from_dict(RunConfig, yaml.safe_load(out), "printed")
    assert config.train.epochs == 9  # from the command line, not from the recipe
    assert config.train.batch_size == 8  # from the recipe
    assert config.train.lr == 1e-3  # the default
    assert config.model.advanced.mix_inputs == "x"
    assert run("train", "--config", printed, "--print-config")[1] == out
    out = run("train", "--config", printed, "--model.advanced.segment_frames", "2", "--print-config")[1]
    advanced = from_dict(RunConfig, yaml.safe_load(out), "printed").model.advanced
    assert (advanced.mix_inputs, advanced.segment_frames) == ("x", 2)


def test_invalid_recipes(cli_error, recipe, tmp_path):
    path = tmp_path / "wrong.yaml"
    words = ["train", "--output", tmp_path / "run", "--data.root", tmp_path, "--config"]
    for text, message in {
        "train: {epoch: 3}": 'unknown key "epoch" in TrainConfig. Did you mean "epochs"?',
        "train: {epochs: many}": "epochs",
        "train: {epochs: 0}": "epochs=0: expected a number, at least 1",
        "- 1": "expected a mapping",
        "a: b: c": "not readable as YAML",
    }.items():
        path.write_text(text)
        assert message in cli_error(*words, path)
    assert "no such file" in cli_error(*words, tmp_path / "none.yaml")
    assert "--train.lr: expected float, got fast" in cli_error(*words, recipe, "--train.lr", "fast")
    assert 'Did you mean "--train.epochs"?' in cli_error(*words, recipe, "--train.epoch", "1")
    assert "--data.root: missing" in cli_error("train", "--output", "x")
    assert "--output: missing" in cli_error("train", "--data.root", "x")
    assert not (tmp_path / "run").exists()
