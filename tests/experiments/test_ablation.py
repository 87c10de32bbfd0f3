"""The ablation study on a small scale: its models and tables, resuming after a stop, its report."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from xvit.experiments.ablation import run as run_module
from xvit.experiments.ablation.grid import MODEL_OPTIONS, TABLES, build_config, paper_comparisons
from xvit.experiments.ablation.report import caption, finding_rows, findings, summary, table_rows
from xvit.experiments.ablation.run import (
    LEARNING_RATES,
    ModelResult,
    best_rate,
    build_model,
    further_rate,
    run_ablation,
)
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError


def make_result(*correct: str) -> ModelResult:
    bits = np.array([[bit == "1" for bit in row] for row in correct])
    return ModelResult(correct=bits, validation={0.001: 0.25, 0.002: 0.5}, parameters=1, macs=2_000_000, seconds=1.0)


def make_results(table: str, *correct: str) -> dict[str, ModelResult]:
    return {row.model: make_result(*correct) for row in TABLES[table].rows}


@contextmanager
def trainings_of_no_steps(train_model=lambda model, clips, **settings: model.eval()):
    """Trainings in this process that leave the weights as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_module, "parallel_map", lambda function, jobs, num_workers, on_progress: [function(job) for job in jobs]
        )
        patch.setattr(run_module, "train_model", train_model)
        yield


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """One table, stopped in the second training of a video model, resumed, extended to two seeds: output, result."""
    output = tmp_path_factory.mktemp("ablation") / "out"
    started = []

    def stop_at_fifth(model, clips, **settings):
        started.append(settings)
        if len(started) == 5:  # the image model, the head and the whole of a model, the head of the next one
            raise KeyboardInterrupt
        model.eval()

    with trainings_of_no_steps(stop_at_fifth):
        with pytest.raises(KeyboardInterrupt):
            run_ablation(output, tables=("window",), seeds=1, clips=384)
        run_ablation(output, tables=("window",), seeds=1, clips=384)
        # Without training all rates are equally good, so three lower ones are tried as well.
        assert len(started) == 5 + 2 * (3 * 5 - 1)
        result = run_ablation(output, tables=("window",), seeds=2, clips=384)
        assert len(started) == 33 + 2 * 3
    return output, result


def test_every_model_can_be_built_and_costs_what_its_row_says():
    macs = {}
    for name, options in MODEL_OPTIONS.items():
        model = build_model(options, 3, seed=0).eval()
        assert model(torch.rand(1, 6, 3, 48, 48)).shape == (1, 3)
        macs[name] = count_macs(model)
    same = {"mixing", "spatial", "mixed x", "mixed keys", "mixed values", "rho = 25 %", "rho = 100 %"}
    assert {macs[name] for name in same} == {macs["mixing"]}
    assert abs(macs["divided"] / macs["mixing"] - 1) < 0.07
    assert len({str(build_config(options, 3)) for options in MODEL_OPTIONS.values()}) == len(MODEL_OPTIONS)


def test_shares_of_channels_are_whole_heads():
    """A head then sees one frame only, in all rows: what is compared is the share, not how heads are divided."""
    for options in MODEL_OPTIONS.values():
        config = build_config(options, 3)
        heads = config.backbone_kwargs["num_heads"] * config.mix_ratio / (2 * config.window)
        assert heads == int(heads) >= 1


def test_the_papers_comparisons_change_one_setting():
    defaults = {"attention": "mixing", "window": 1, "mix_ratio": 0.5, "temporal_head": "attention", "summary_tokens": 0}
    defaults |= {"mix_inputs": "keys_values", "mixing_layers": "all"}
    comparisons = paper_comparisons()
    for comparison in comparisons:
        lower, higher = (defaults | MODEL_OPTIONS[name] for name in (comparison.lower, comparison.higher))
        assert len([name for name in defaults if lower[name] != higher[name]]) == 1
        assert comparison.gap >= 0.9
    assert len(comparisons) == len(set(comparisons)) == 12
    gaps = {(comparison.lower, comparison.higher): comparison.gap for comparison in comparisons}
    assert gaps["spatial (mean)", "mixing (mean)"] == 17.4
    assert ("rho = 25 %", "mixing") not in gaps  # 0.1


def test_the_tables_use_exactly_the_defined_models():
    assert {row.model for table in TABLES.values() for row in table.rows} == set(MODEL_OPTIONS)


def test_a_resumed_ablation_repeats_no_finished_training(ablation):
    output, result = ablation
    assert list(result) == ["mixing (mean)", "w = 2 (mean)", "w = 2, replicate (mean)"]
    files = [output / "trainings" / f"w_2_mean_0.00025_seed_{seed}.json" for seed in (0, 1)]
    saved = [json.loads(path.read_text()) for path in files]
    measured = result["w = 2 (mean)"]
    assert [[bit == "1" for bit in training["correct"]] for training in saved] == measured.correct.tolist()
    assert measured.correct.shape == (2, 50)
    assert set(measured.validation) == {0.00025, 0.0005, 0.001, *LEARNING_RATES}


def test_a_model_starts_from_the_image_models_weights(tmp_path):
    seen = {}

    def remember(model, clips, **settings):
        seen[len(seen)] = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
        model.eval()

    with trainings_of_no_steps(remember):
        run_ablation(tmp_path / "out", tables=("mix_ratio",), seeds=1, clips=384)
    image, *others = seen.values()
    saved = XViT.from_pretrained(tmp_path / "out" / "image_model_8").backbone.state_dict()
    for state in (saved, *others):
        assert all(torch.equal(state[key], image[key]) for key in image if not key.startswith("head"))


def test_the_head_is_trained_on_a_third_of_the_clips_and_then_all_of_it_on_all(tmp_path):
    seen = []

    def remember(model, clips, *, lr, seed, epochs, layer_decay=1.0, **settings):
        trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
        seen.append((epochs * len(clips.pixels), trained, lr, layer_decay, seed))
        model.eval()

    with trainings_of_no_steps(remember):
        run_ablation(tmp_path / "out", tables=("mix_ratio",), seeds=2, clips=384, epochs=3)
    parts = {"backbone", "temporal_position", "temporal_head", "classifier"}
    assert seen[0] == (4 * 960, parts - {"temporal_head"}, 0.0015, 1.0, 0)  # the image model, whose head is a mean
    heads, wholes = seen[1::2], seen[2::2]
    assert {(count, *sorted(trained), lr, decay) for count, trained, lr, decay, _ in heads} == {
        (128, "classifier", "temporal_head", 0.002, 1.0)
    }
    assert all((count, trained, decay) == (3 * 384, parts, 0.75) for count, trained, _, decay, _ in wholes)
    assert [head[-1] for head in heads] == [whole[-1] for whole in wholes] == [0] * 15 + [1] * 3
    assert {lr for *_, lr, _, seed in wholes if seed == 0} == {0.00025, 0.0005, 0.001, 0.002, 0.004}


def test_the_best_learning_rate_is_taken_and_of_equal_ones_the_lowest():
    assert best_rate({0.004: 0.5, 0.001: 0.4, 0.002: 0.5}) == 0.002


@pytest.mark.parametrize(
    ("top1", "rate"),
    [
        ({0.001: 0.1, 0.002: 0.3, 0.004: 0.2}, None),
        ({0.001: 0.1, 0.002: 0.2, 0.004: 0.3}, 0.008),
        ({0.001: 0.3, 0.002: 0.2, 0.004: 0.1}, 0.0005),
        ({0.001: 0.1, 0.016: 0.2, 0.032: 0.3}, None),  # no higher one
        ({0.00025: 0.3, 0.0005: 0.2}, None),  # no lower one
    ],
)
def test_further_learning_rates_are_tried_beyond_the_best_one(top1, rate):
    assert further_rate(top1) == rate


def test_rates_are_tried_until_the_best_one_on_the_validation_clips_lies_between_others(tmp_path, monkeypatch):
    """On the test clips the order of the rates is the opposite one."""
    shares = {0.002: 0.25, 0.004: 0.375, 0.008: 0.75, 0.016: 0.5}  # of right predictions, by rate

    def train(model, clips, *, lr, **settings):
        model.lr = lr

    def predict(model, clips):
        labels, count = clips.labels["label"], len(clips.pixels)
        share = shares[model.lr] if count == 16 else 1 - shares[model.lr]  # 16 validation clips, 50 test clips
        is_right = torch.arange(count) < share * count
        return torch.nn.functional.one_hot(torch.where(is_right, labels, (labels + 1) % 12), 12)

    monkeypatch.setattr(run_module, "predict", predict)
    with trainings_of_no_steps(train):
        results = run_ablation(tmp_path / "out", tables=("summary_tokens",), seeds=1, clips=384)
    for result in results.values():
        assert result.validation == shares
        assert result.lr == 0.008
        assert result.top1 == [pytest.approx(0.26)]  # of 50 clips


def test_other_settings_and_damaged_files_raise_an_error(ablation, tmp_path):
    output, _ = ablation
    options = {"tables": ("window",), "seeds": 1, "clips": 384}
    with pytest.raises(XViTError, match=r"with other settings: clips was 384 and is now 400; choose another"):
        run_ablation(output, **options | {"clips": 400})
    with pytest.raises(XViTError, match=r"with other settings: epochs was 1 and is now 2; choose another"):
        run_ablation(output, **options | {"epochs": 2})
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(XViTError, match=r"not an empty directory; it has no settings\.json of an ablation to resume"):
        run_ablation(tmp_path, **options)
    with pytest.raises(XViTError, match=r"mine\.txt: exists; it has no settings\.json of an ablation to resume"):
        run_ablation(tmp_path / "mine.txt", **options)
    with pytest.raises(XViTError, match=r"tables='windows'.*Did you mean \"window\"\?"):
        run_ablation(output, **options | {"tables": ("windows",)})
    result = output / "trainings" / "w_2_mean_0.002_seed_0.json"
    text = result.read_text()
    for damaged in (
        "null",
        "{",
        '{"correct": "01"}',
        text.replace("0", "x"),
        text.replace('"correct": "', '"correct": "2'),
        text.replace('"validation": "', '"validation": "2'),
    ):
        result.write_text(damaged)
        with pytest.raises(XViTError, match=r"0.002_seed_0.json: damaged .*; delete it to train this model again"):
            run_ablation(output, **options)
    result.write_text(text)
    settings = output / "settings.json"
    text = settings.read_text()
    for damaged in ("null", "{}", '{"settings": 3, "versions": {}}', "{"):
        settings.write_text(damaged)
        with pytest.raises(XViTError, match=r"settings.json: damaged .*; choose another --output"):
            run_ablation(output, **options)
    settings.write_text(text)


def test_a_row_has_the_accuracy_the_difference_and_the_papers_figures():
    results = make_results("mix_ratio", "1100", "1110")
    results["rho = 100 %"] = make_result("1000", "1000")
    first, _, last = table_rows("mix_ratio", results)
    assert first == ("50 %", "62.5 ± 17.7", "", "63.4", "", "2.0", "0.002")
    assert last[:2] == ("100 %", "25.0 ± 0.0")
    assert last[2].startswith("-37.5 ± ")
    assert last[3:5] == ("60.7", "-2.7")
    one_seed = make_results("mix_ratio", "1100")
    assert table_rows("mix_ratio", one_seed)[1][:3] == ("25 %", "50.0", "+0.0")


def test_the_caption_names_the_number_of_seeds():
    assert "4 test clips, mean ± standard deviation over 2 seeds;" in caption({"mixing": make_result("1100", "1100")})
    assert "4 test clips, one seed;" in caption({"mixing": make_result("1100")})


def test_findings_have_the_papers_sign_or_the_opposite():
    many = ("1" * 60 + "0" * 40, "1" * 61 + "0" * 39)
    results = {name: make_result(*many) for name in MODEL_OPTIONS}
    results["spatial"] = make_result(
        "0" * 90 + "1" * 10, "0" * 90 + "1" * 10
    )  # clearly worse than mixing, and than its mean
    verdicts = {(f.comparison.lower, f.comparison.higher): f.verdict for f in findings(results)}
    assert len(verdicts) == 12
    assert verdicts["spatial", "mixing"] == "the paper's"
    assert verdicts["spatial (mean)", "spatial"] == "opposite"
    assert verdicts["mixed keys", "mixing"] == "no difference"
    found = findings(results)
    assert summary(found).startswith(
        "1 of the paper's 12 differences of at least 0.9 points have the same sign here, 1"
    )
    assert summary(found).endswith("1 are clearly opposite.")
    assert finding_rows(found)[1][:3] == ("mixing", "spatial", "+7.8")
    assert findings({"mixing": make_result("11")}) == []


def test_the_command_trains_and_prints_the_results(run, tmp_path):
    """One of the trainings is a real one, in a worker process."""
    output = tmp_path / "out"
    with trainings_of_no_steps():
        run_ablation(output, tables=("window",), seeds=2, clips=384)
    (output / "trainings" / "w_2_mean_0.00025_seed_1.json").unlink()
    words = ["ablate", "--output", output, "--tables", "window", "--seeds", 2, "--jobs", 1]
    assert "mixing_layers" in run("ablate", "--tables", "layers")[2]
    code, out, err = run(*words, "--clips", 384)
    assert code == 0, err
    assert "training: 3 of 3 done, about 0 min left" in err
    assert "edges replicated" in out
    report = json.loads((output / "ablation.json").read_text())
    assert report["settings"] == {"clips": 384, "epochs": 1, "seeds": 2}
    assert set(report["models"]) == {row.model for row in TABLES["window"].rows}
    assert report["models"]["w = 2 (mean)"]["seconds"] > 0
    assert len(report["findings"]) == 1
    assert "| w = 2 |" in (output / "ablation.md").read_text()
    assert (output / "ablation.png").read_bytes().startswith(b"\x89PNG")
