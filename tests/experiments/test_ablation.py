"""The ablation on a scale of seconds: its grid, going on after a stop, its tables."""

import json
import shutil
import statistics
from dataclasses import replace

import pytest
import torch
import yaml

from xvit.config import RunConfig, from_dict
from xvit.experiments.ablation import run as module
from xvit.experiments.ablation.grid import MODELS, ORDERS, PAPER, TABLES
from xvit.experiments.ablation.report import cells, note, orders
from xvit.experiments.ablation.run import Measured, run_ablation
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def tiny(recipe) -> RunConfig:
    """A recipe of one short epoch."""
    config = from_dict(RunConfig, yaml.safe_load(recipe.read_text()), recipe)
    return replace(config, train=replace(config.train, epochs=1))


@pytest.fixture(scope="module")
def ablation(tmp_path_factory, tiny):
    """Two tables of one seed, stopped at the third training, gone on with, and taken to two seeds: folder, result."""
    output = tmp_path_factory.mktemp("ablation") / "out"
    options = {"recipe": tiny, "tables": ("fraction",), "clips_per_class": 3}
    fit, began = module.fit, []

    def counted(config, folder, **rest):
        began.append(folder)
        if len(began) == 3:
            raise KeyboardInterrupt
        return fit(config, folder, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "run_all", lambda function, jobs, num_workers, on_progress: [function(job) for job in jobs]
        )
        patch.setattr(module, "fit", counted)
        with pytest.raises(KeyboardInterrupt):
            run_ablation(output, seeds=1, **options)
        run_ablation(output, seeds=1, **options)
        assert len(began) == 5  # four models, the third once more
        result = run_ablation(output, seeds=2, **options)
        assert len(began) == 9
    return output, options, result


def test_each_model_of_the_grid_can_be_built():
    sizes = {"embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 32}
    base = RunConfig().model
    base = replace(base, backbone="vit_tiny_patch16_224", num_frames=4, num_classes=3, backbone_kwargs=sizes)
    macs, configs = {}, {}
    for name, changes in MODELS.items():
        configs[name] = replace(base, **PAPER | changes)
        model = XViT(configs[name]).eval()
        assert model(torch.rand(1, 4, 3, 32, 32)).shape == (1, 3)
        macs[name] = count_macs(model, image_size=32)
    assert len({str(config) for config in configs.values()}) == len(configs)
    same = {"mixing", "spatial", "mixed x", "mixed keys", "mixed values", "rho = 25 %", "rho = 100 %"}
    assert {macs[name] for name in same} == {macs["mixing"]}
    assert macs["mixing"] < macs["local"] < macs["joint"]
    assert macs["mixing, mean"] < macs["mixing"] < macs["2 temporal layers"] < macs["3 temporal layers"]


def test_a_recipe_of_other_settings_changes_no_row():
    other = {"window": 2, "mix_inputs": "x", "temporal_head": "mean", "summary_tokens": 1, "temporal_position": "none"}
    other |= {"tubelet_size": 2}
    recipes = [RunConfig(), RunConfig(model=replace(RunConfig().model, **other))]
    for name in MODELS:
        first, second = (module._config(recipe, name, 0).model for recipe in recipes)
        assert first == second


def test_window_0_and_fraction_0_are_spatial_attention():
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32}
    base = replace(RunConfig().model, backbone="vit_tiny_patch16_224", num_frames=4, num_classes=3)
    base = replace(base, backbone_kwargs=sizes)
    clip, weights, logits = torch.rand(2, 4, 3, 32, 32), None, []
    for changes in ({"attention": "spatial"}, {"window": 0}, {"mix_ratio": 0.0}, {}):
        model = XViT(replace(base, **changes)).eval()
        weights = weights or model.state_dict()
        model.load_state_dict(weights)
        logits.append(model(clip))
    spatial, *same, mixing = logits
    assert all(torch.allclose(spatial, other, atol=1e-6) for other in same)
    assert not torch.allclose(spatial, mixing, atol=1e-4)


def test_the_tables_name_models_of_the_grid_and_all_of_them():
    named = {row.model for table in TABLES.values() for row in table.rows}
    assert named == set(MODELS)
    assert {name for pair in ORDERS for name in pair} <= named


def test_a_stopped_ablation_goes_on_and_trains_nothing_twice(ablation):
    output, _, result = ablation
    assert list(result) == ["spatial", "mixing", "rho = 25 %", "rho = 100 %"]
    kept = {path.parent.name: json.loads(path.read_text()) for path in output.glob("rho_100_percent/*/result.json")}
    assert result["rho = 100 %"].top1 == tuple(kept[f"seed_{seed}"]["top1"] for seed in (0, 1))
    assert not list(output.glob("*/*/state"))
    for measured in result.values():
        assert measured.quartiles[0] <= measured.milliseconds <= measured.quartiles[1]


def test_other_settings_and_damaged_files_are_refused(ablation, tiny, tmp_path):
    output, options, _ = ablation
    other = replace(tiny, train=replace(tiny.train, lr=0.5))
    with pytest.raises(XViTError, match="an ablation with other settings"):
        run_ablation(output, **options | {"recipe": other})
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(XViTError, match="not empty, and not an ablation"):
        run_ablation(tmp_path, **options)
    with pytest.raises(XViTError, match=r"tables='windows'.*Did you mean \"window\"\?"):
        run_ablation(output, **options | {"tables": ("windows",)})
    result = output / "mixing" / "seed_0" / "result.json"
    text = result.read_text()
    wrong = ['{"top1": 0.5}', "null", "{", *(text.replace(text.split(",")[0], f'{{"top1": {t}') for t in WRONG)]
    for damage in wrong:
        result.write_text(damage)
        with pytest.raises(XViTError, match=r"result.json: damaged .*: delete .*seed_0 to train it again"):
            run_ablation(output, **options)
    result.write_text(text)
    settings = output / "settings.json"
    text = settings.read_text()
    for damage in ("null", "{}", '{"recipe": 3, "clips_per_class": 3}', "{"):
        settings.write_text(damage)
        with pytest.raises(XViTError, match=r"settings.json: damaged"):
            run_ablation(output, **options)
    settings.write_text(text)


def test_a_moved_folder_of_an_older_version_is_the_same_ablation(ablation, tmp_path, monkeypatch):
    output, options, result = ablation
    moved = tmp_path / "moved"
    shutil.copytree(output, moved)
    settings = json.loads((moved / "settings.json").read_text())
    del settings["recipe"]["train"]["save_minutes"]  # as if it had come later
    (moved / "settings.json").write_text(json.dumps(settings))
    monkeypatch.setattr(module, "fit", None)  # nothing is trained
    again = run_ablation(moved, seeds=2, **options)
    assert {name: one.top1 for name, one in again.items()} == {name: one.top1 for name, one in result.items()}


WRONG = ('"0.5"', "NaN", "7", "true", "null")


def made(*top1: float) -> Measured:
    return Measured(top1=top1, parameters=1, macs=2_000_000, milliseconds=3.0, quartiles=(2.5, 3.5))


def test_a_line_holds_mean_and_spread_and_the_papers_figure():
    top1 = (0.5, 0.6, 0.7)
    lines = cells("fraction", {row.model: made(*top1) for row in TABLES["fraction"].rows})
    spread = 100 * statistics.stdev(top1)
    assert lines[2] == ("50 %", f"60.0 ± {spread:.1f}", "63.4", "2.0", "3.00 [2.50, 3.50]")
    alone = {row.model: made(0.5) for row in TABLES["fraction"].rows}
    assert cells("fraction", alone)[0][1] == "50.0"
    assert note(alone).endswith("One seed: no spread.")
    both = cells("summary", {row.model: made(*top1) for row in TABLES["summary"].rows})[2]
    assert both[2] == "62.5 (K400: 78.0)"


@pytest.mark.parametrize(
    ("worse", "better", "told"),
    [
        ((0.1, 0.2), (0.3, 0.4), ": seen: here 15.0 % and 35.0 %; the difference, +20.0, is beyond the spread, 10.0"),
        ((0.1, 0.4), (0.3, 0.4), ": seen: here 25.0 % and 35.0 %; the difference, +10.0, is within the spread, 22.4"),
        ((0.3, 0.3), (0.3, 0.3), ": NOT seen: here 30.0 % and 30.0 %; the difference, +0.0, is within"),
        ((0.5, 0.6), (0.3, 0.4), ": NOT seen: here 55.0 % and 35.0 %; the difference, -20.0, is beyond"),
        ((0.5,), (0.6,), ": seen: here 50.0 % and 60.0 %; one seed: no spread"),
    ],
)
def test_an_order_is_seen_or_said_not_to_be(worse, better, told):
    said = orders({"spatial": made(*worse), "mixed keys": made(*better)})
    assert len(said) == 1
    assert told in said[0]


def test_the_command(run, recipe, tmp_path):
    words = ["ablate", "--config", recipe, "--output", tmp_path / "out", "--tables", "window", "--seeds", "1"]
    words += ["--clips-per-class", "3", "--jobs", "2", "--train.epochs", "1"]
    code, _, err = run(*words)
    assert (code, "unknown option --train.epochs" in err) == (2, True)
    code, out, err = run(*words[:-2])
    assert code == 0, err
    assert "the paper's, %" in out
    assert "w = 2, boundary only" in out
    assert "4 of 4 trainings done, about 0 min left" in err
    assert "[spatial, mean]" in out
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert report["settings"]["seeds"] == 1
    assert set(report["models"]) == {row.model for row in TABLES["window"].rows}
    assert "| w = 0 |" in (tmp_path / "out" / "ablation.md").read_text()
    assert (tmp_path / "out" / "ablation.png").read_bytes().startswith(b"\x89PNG")
