"""The ablation study on a small scale: its models and tables, resuming after a stop, its report."""

import json
import shutil
import statistics
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import yaml

from helpers.changed_videos import CHANGES, changed_video, file_hashes
from helpers.training_runs import fit_no_steps
from xvit.config import RunConfig, from_dict, model_config, to_dict
from xvit.experiments.ablation import run as run_module
from xvit.experiments.ablation.grid import BASE_OPTIONS, MODEL_OPTIONS, PAPER_RANKINGS, TABLES
from xvit.experiments.ablation.report import caption, compare_rankings, table_rows
from xvit.experiments.ablation.run import ModelResult, row_config, run_ablation
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError

WITHIN = "here; the difference, {}, is within its standard deviation"
LARGER = "here; the difference, {}, is larger than its standard deviation"
INVALID_TOP1 = ('"0.5"', "NaN", "7", "true", "null")


def small_model_config(*, depth: int, **options):
    """A model of 4 frames and 3 classes."""
    sizes = {"embed_dim": 16, "depth": depth, "num_heads": 2, "img_size": 32}
    options = {"backbone": "vit_tiny_patch16_224", "num_frames": 4, "num_classes": 3, **options}
    return model_config(backbone_kwargs=sizes, **options)


def make_result(*top1: float) -> ModelResult:
    return ModelResult(top1=top1, parameters=1, macs=2_000_000, ms_per_clip=3.0, quartiles=(2.5, 3.5))


@pytest.fixture(scope="module")
def short_recipe(recipe) -> RunConfig:
    """A recipe of one short epoch."""
    config = from_dict(RunConfig, yaml.safe_load(recipe.read_text()), recipe)
    return replace(config, train=replace(config.train, epochs=1))


@contextmanager
def trainings_of_no_steps(fit=fit_no_steps):
    """Trainings in this process that save their initial weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_module, "parallel_map", lambda function, jobs, num_workers, on_progress: [function(job) for job in jobs]
        )
        patch.setattr(run_module, "fit", fit)
        yield


@pytest.fixture(scope="module")
def ablation(tmp_path_factory, short_recipe):
    """One table, stopped at the third training, resumed, and extended to two seeds: output, options, result."""
    output = tmp_path_factory.mktemp("ablation") / "out"
    options = {"recipe": short_recipe, "tables": ("mix_ratio",), "clips_per_class": 3}
    started = []

    def stop_at_third(config, directory, **kwargs):
        started.append(directory)
        if len(started) == 3:
            raise KeyboardInterrupt
        return fit_no_steps(config, directory, **kwargs)

    with trainings_of_no_steps(stop_at_third):
        with pytest.raises(KeyboardInterrupt):
            run_ablation(output, seeds=1, **options)
        run_ablation(output, seeds=1, **options)
        assert len(started) == 5  # four models, the third one twice
        result = run_ablation(output, seeds=2, **options)
        assert len(started) == 9
    return output, options, result


def test_every_model_can_be_built():
    base = small_model_config(depth=2)
    macs, configs = {}, {}
    for name, options in MODEL_OPTIONS.items():
        configs[name] = model_config(base, **BASE_OPTIONS | options)
        model = XViT(configs[name]).eval()
        assert model(torch.rand(1, 4, 3, 32, 32)).shape == (1, 3)
        macs[name] = count_macs(model, image_size=32)
    assert len({str(config) for config in configs.values()}) == len(configs)
    same = {"mixing", "spatial", "mixed x", "mixed keys", "mixed values", "rho = 25 %", "rho = 100 %"}
    assert {macs[name] for name in same} == {macs["mixing"]}
    assert macs["mixing"] < macs["local"] < macs["joint"]
    assert macs["mixing, mean"] < macs["mixing"] < macs["2 temporal layers"] < macs["3 temporal layers"]


def test_the_options_of_the_rows_override_the_recipe():
    other = {"window": 2, "mix_inputs": "x", "temporal_head": "mean", "summary_tokens": 1, "temporal_position": "none"}
    other |= {"tubelet_size": 2}
    recipes = [RunConfig(), RunConfig(model=model_config(**other))]
    for name in MODEL_OPTIONS:
        first, second = (row_config(recipe, name, 0).model for recipe in recipes)
        assert first == second


def test_window_0_and_mix_ratio_0_equal_spatial_attention():
    clip, weights, logits = torch.rand(2, 4, 3, 32, 32), None, []
    for options in ({"attention": "spatial"}, {"window": 0}, {"mix_ratio": 0.0}, {}):
        model = XViT(small_model_config(depth=2, **options)).eval()
        weights = weights or model.state_dict()
        model.load_state_dict(weights)
        logits.append(model(clip))
    spatial, *same, mixing = logits
    assert all(torch.allclose(spatial, other, atol=1e-6) for other in same)
    assert not torch.allclose(spatial, mixing, atol=1e-4)


def test_the_tables_use_exactly_the_defined_models():
    used = {row.model for table in TABLES.values() for row in table.rows}
    assert used == set(MODEL_OPTIONS)
    assert {name for pair in PAPER_RANKINGS for name in pair} <= used


def test_a_resumed_ablation_repeats_no_finished_training(ablation):
    output, _, result = ablation
    assert list(result) == ["spatial", "mixing", "rho = 25 %", "rho = 100 %"]
    saved = {path.parent.name: json.loads(path.read_text()) for path in output.glob("rho_100_percent/*/result.json")}
    assert result["rho = 100 %"].top1 == tuple(saved[f"seed_{seed}"]["top1"] for seed in (0, 1))
    assert not list(output.glob("*/*/state"))
    for model in result.values():
        assert model.quartiles[0] <= model.ms_per_clip <= model.quartiles[1]


def test_other_settings_and_damaged_files_raise_an_error(ablation, short_recipe, tmp_path):
    output, options, _ = ablation
    other = replace(short_recipe, train=replace(short_recipe.train, lr=0.5))
    with pytest.raises(XViTError, match=r"with other settings: recipe\.train\.lr was .* and is now 0\.5; choose"):
        run_ablation(output, **options | {"recipe": other})
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(XViTError, match=r"not an empty directory; it has no settings\.json of an ablation to resume"):
        run_ablation(tmp_path, **options)
    with pytest.raises(XViTError, match=r"mine\.txt: exists; it has no settings\.json of an ablation to resume"):
        run_ablation(tmp_path / "mine.txt", **options)
    with pytest.raises(XViTError, match=r"tables='windows'.*Did you mean \"window\"\?"):
        run_ablation(output, **options | {"tables": ("windows",)})
    result = output / "mixing" / "seed_0" / "result.json"
    text = result.read_text()
    invalid = [text.replace(text.split(",")[0], f'{{"top1": {top1}') for top1 in INVALID_TOP1]
    for damaged in ('{"top1": 0.5}', "null", "{", *invalid):
        result.write_text(damaged)
        with pytest.raises(XViTError, match=r"result.json: damaged .*; delete .*seed_0 to train it again"):
            run_ablation(output, **options)
    result.write_text(text)
    settings = output / "settings.json"
    text = settings.read_text()
    for damaged in ("null", "{}", '{"recipe": 3, "clips_per_class": 3}', "{"):
        settings.write_text(damaged)
        with pytest.raises(XViTError, match=r"settings.json: damaged .*; choose another --output"):
            run_ablation(output, **options)
    settings.write_text(text)


@pytest.mark.parametrize("change", CHANGES)
def test_other_videos_are_refused(change, ablation):
    """The models that are trained already have used the videos as they were."""
    output, options, _ = ablation
    with changed_video(output / "videos", change) as what:
        before = file_hashes(output)
        message = rf"videos: the data changed since the experiment was started: {what}; undo these changes, or choose"
        with pytest.raises(XViTError, match=message):
            run_ablation(output, seeds=2, **options)
        assert file_hashes(output) == before


def test_a_recipe_of_an_earlier_version_has_counted_frames(ablation, tmp_path):
    output, options, _ = ablation
    settings = json.loads((output / "settings.json").read_text())
    del settings["recipe"]["clip"]["frame_rate"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(XViTError, match=r"recipe\.clip\.frame_rate was null and is now 0\.0"):
        run_ablation(tmp_path, **options)


def test_a_moved_directory_without_a_later_setting_is_resumed(ablation, tmp_path, monkeypatch):
    output, options, result = ablation
    moved = tmp_path / "moved"
    shutil.copytree(output, moved)
    settings = json.loads((moved / "settings.json").read_text())
    del settings["recipe"]["train"]["save_minutes"]  # as if a later version had added it
    (moved / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr(run_module, "fit", None)  # nothing is trained
    again = run_ablation(moved, seeds=2, **options)
    assert {name: model.top1 for name, model in again.items()} == {name: model.top1 for name, model in result.items()}


def test_a_row_contains_mean_standard_deviation_and_the_papers_figures():
    top1 = (0.5, 0.6, 0.7)
    rows = table_rows("mix_ratio", {row.model: make_result(*top1) for row in TABLES["mix_ratio"].rows})
    std = 100 * statistics.stdev(top1)
    assert rows[2] == ("50 %", f"60.0 ± {std:.1f}", "63.4", "2.0", "3.00 [2.50, 3.50]")
    one_seed = {row.model: make_result(0.5) for row in TABLES["mix_ratio"].rows}
    assert table_rows("mix_ratio", one_seed)[0][1] == "50.0"
    row = table_rows("summary_tokens", {row.model: make_result(*top1) for row in TABLES["summary_tokens"].rows})[2]
    assert row[2] == "62.5 (K400: 78.0)"


def test_the_caption_names_the_number_of_seeds():
    assert "mean ± standard deviation over 3 seeds." in caption({"mixing": make_result(0.5, 0.6, 0.7)})
    assert "data set, one seed." in caption({"mixing": make_result(0.5)})


@pytest.mark.parametrize(
    ("lower", "higher", "outcome", "details"),
    [
        ((0.1, 0.2), (0.3, 0.4), "reproduced", f"15.0 % and 35.0 % {LARGER.format('+20.0')}, 10.0)."),
        ((0.1, 0.4), (0.3, 0.4), "reproduced", f"25.0 % and 35.0 % {WITHIN.format('+10.0')}, 22.4)."),
        ((0.3, 0.3), (0.3, 0.3), "NOT reproduced", f"30.0 % and 30.0 % {WITHIN.format('+0.0')}"),
        ((0.5, 0.6), (0.3, 0.4), "NOT reproduced", f"55.0 % and 35.0 % {LARGER.format('-20.0')}"),
        ((0.5,), (0.6,), "reproduced", "50.0 % and 60.0 % here; one seed, no standard deviation)."),
    ],
)
def test_the_papers_ranking_is_compared(lower, higher, outcome, details):
    lines = compare_rankings({"spatial": make_result(*lower), "mixed keys": make_result(*higher)})
    assert len(lines) == 1
    assert lines[0].startswith(f"The paper ranks [spatial] below [mixed keys]: {outcome} ({details}")


def test_the_command_writes_and_prints_the_results(run, short_recipe, tmp_path):
    """The last of four trainings is a real one, in a worker process."""
    output, recipe = tmp_path / "out", tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(to_dict(short_recipe)))
    with trainings_of_no_steps():
        run_ablation(output, recipe=short_recipe, tables=("window",), seeds=1, clips_per_class=3)
    shutil.rmtree(output / "w_2_boundary_only_mean")
    words = ["ablate", "--config", recipe, "--output", output, "--tables", "window", "--seeds", "1"]
    words += ["--clips-per-class", "3", "--jobs", "1", "--train.epochs", "1"]
    code, _, err = run(*words)
    assert (code, "unknown option --train.epochs" in err) == (2, True)
    code, out, err = run(*words[:-2])
    assert code == 0, err
    assert "top-1 in the paper, %" in out
    assert "w = 2, boundary only" in out
    assert "1 of 1 trainings done, about 0 min left" in err
    assert "[spatial, mean]" in out
    report = json.loads((output / "ablation.json").read_text())
    assert report["settings"]["seeds"] == 1
    assert set(report["models"]) == {row.model for row in TABLES["window"].rows}
    assert "| w = 0 |" in (output / "ablation.md").read_text()
    assert (output / "ablation.png").read_bytes().startswith(b"\x89PNG")
    trained = XViT.from_pretrained(output / "w_2_boundary_only_mean" / "seed_0" / "last")
    assert trained.provenance["epoch"] == 1
    assert not (output / "w_2_boundary_only_mean" / "seed_0" / "state").exists()
