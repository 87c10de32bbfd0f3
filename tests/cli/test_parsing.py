"""Parsing: errors in one line, recipes, settings that override them."""

from typing import get_args

import pytest
import yaml

from xvit.cli.main import COMMANDS, find_command
from xvit.cli.parsing import CommandParser, parse_args
from xvit.config import RunConfig, from_dict
from xvit.config.values import describe
from xvit.utils.errors import XViTError


def test_argument_errors_are_explained_in_one_line(cli_error):
    words = ("data", "motion", "--output", "x")
    assert cli_error(*words, "--clips-per-class", "few") == "--clips-per-class: few: expected a whole number or null"
    assert "--output: missing" in cli_error("data", "motion")
    assert 'unexpected argument "surplus"' in cli_error("info", "surplus")
    assert "VIDEOS, --checkpoint: missing" in cli_error("timeline")
    assert "--checkpoint: missing" in cli_error("predict")
    assert "VIDEO_OR_FOLDER or --input: missing" in cli_error("predict", "--checkpoint", "motion")
    assert cli_error("info", "--attention", "mixin") == (
        '--attention: mixin: expected mixing, spatial, local, joint or divided. Did you mean "mixing"?'
    )
    assert cli_error("info", "--num-frames", "0") == "num_frames=0: expected a number, between 1 and 4096"
    assert (
        cli_error("predict", "x.mp4", "--checkpoint", "x", "--top-k", "0") == "top_k=0: expected a number, at least 1"
    )
    assert "--train: expected one of its settings" in cli_error("train", "--train", "3")
    assert cli_error("train", "--clip.mean", "[0.5, a, 0.5]") == "--clip.mean.1: a: expected a number"
    assert cli_error("train", "--train.loss_weights.verb", "x") == "--train.loss_weights.verb: x: expected a number"
    assert cli_error("train", "--train.precision", "no") == (
        "--train.precision: no: expected fp32, bf16 or fp16; fp32 trains without mixed precision"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_refuses_another_type_in_plain_words(name):
    """Numbers, switches and choices of every command. The value comes before anything that is missing."""
    module = find_command(name.split())[1]
    parser = CommandParser(prog="xvit", exit_on_error=False, allow_abbrev=False)
    module.add_options(parser)

    def error(*words):
        with pytest.raises(XViTError) as caught:
            getattr(module, "parse", parse_args)(parser, list(words))
        return str(caught.value)

    typed = [action for action in parser._actions if getattr(action, "_typehint", None) is not None]
    typed = [action for action in typed if action.option_strings and str not in kinds(action._typehint)]
    assert typed or name in ("data check", "probe") or any(action.option_strings for action in parser._actions)
    for action in typed:
        option = action.option_strings[0]
        number = action.nargs if isinstance(action.nargs, int) else 1
        expected = f"expected {describe(action._typehint)}"
        assert error(option, *["wrong"] * number).startswith(f"{option}: wrong: {expected}")
        if number == 1:
            assert error(f"{option}=").startswith(f"{option}: (empty): {expected}")
        assert error(option).startswith(f"{option}: expected a value")


def kinds(annotation):
    return (annotation, *get_args(annotation))


@pytest.mark.parametrize("text", ["100", "1e2", "100.0", "+100", "1.0E+2"])
def test_whole_numbers_as_people_write_them(text, run):
    for words in (["--train.epochs", text], [f"--train.epochs={text}"]):
        code, out, err = run("train", *words, "--print-config")
        assert (code, err) == (0, "")
        assert yaml.safe_load(out)["train"]["epochs"] == 100


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("data motion --clips-per-clas", "--clips-per-class"),
        ("data motion --clips_per_clas=3", "--clips-per-class"),
        ("train --train.epoch", "--train.epochs"),
        ("train --trian.lr", "--train.lr"),
        ("train --train.learning_rate", "--train.lr"),
        ("train --train.learning-rate=3", "--train.lr"),
        ("train --lr", "--train.lr"),
        ("train --epochs", "--train.epochs"),
        ("train --mdel.advnced.mix_inputs", "--model.advanced.mix_inputs"),
        ("train --model.mix_inputs", "--model.advanced.mix_inputs"),
        ("train --out", "--output"),
        ("predict --trust", "--trust-code"),
        ("predict --ckeckpoint", "--checkpoint"),
        ("predict --topk", "--top-k"),
        ("eval --temporal-views", "--eval.temporal_views"),
        ("eval --root", "--data.root"),
    ],
)
def test_unknown_option_suggests_what_is_meant(words, meant, cli_error):
    given = words.split()[-1].split("=")[0]
    assert cli_error(*words.split(), "x") == f'unknown option {given}. Did you mean "{meant}"?'


@pytest.mark.parametrize(
    ("words", "listed", "not_listed"),
    [
        ("predict --fullscreen", ["--checkpoint", "--top-k", "--trust-code", "--json"], "Did you mean"),
        ("stream --fullscreen", ["--checkpoint", "--stride"], "Did you mean"),
        ("train --gpu", ["--output", "--resume", "--model.NAME", "--train.NAME"], "--train.lr"),
        ("train --train.gpu", ["--train.epochs", "--train.lr"], "--data.root"),
        ("info -x", ["--checkpoint", "--list-backbones"], "Did you mean"),
    ],
)
def test_unknown_option_that_is_near_to_none_lists_them(words, listed, not_listed, cli_error):
    error = cli_error(*words.split(), "x")
    assert error.startswith(f"unknown option {words.split()[-1]}. Known: ")
    assert set(listed) <= set(error.partition("Known: ")[2].split(", "))
    assert not_listed not in error


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
        "train: {epoch: 3}": 'unknown key "train.epoch". Did you mean "epochs"?',
        "train: {epochs: many}": "epochs",
        "train: {epochs: 0}": "epochs=0: expected a number, at least 1",
        "- 1": "expected a mapping",
        "a: b: c": "not readable as YAML",
    }.items():
        path.write_text(text)
        assert message in cli_error(*words, path)
    assert "no such file" in cli_error(*words, tmp_path / "none.yaml")
    assert "--train.lr: fast: expected a number" in cli_error(*words, recipe, "--train.lr", "fast")
    assert 'Did you mean "--train.epochs"?' in cli_error(*words, recipe, "--train.epoch", "1")
    assert "--data.root: missing" in cli_error("train", "--output", tmp_path / "x")
    assert "--output: missing" in cli_error("train", "--data.root", tmp_path)
    assert not (tmp_path / "run").exists()
