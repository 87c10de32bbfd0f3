"""The benchmark: what is measured, resuming, and the report."""

import json
import os
import re
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from helpers.changed_videos import file_hashes
from helpers.color_videos import SIZE  # noqa: F401 - sets torch's threads
from xvit.experiments.benchmark import measure
from xvit.experiments.benchmark import run as run_module
from xvit.experiments.benchmark.measure import GroupSettings, _run_and_get_peak
from xvit.experiments.benchmark.peers import MODELS, build_model
from xvit.experiments.benchmark.report import ResultTable, make_tables, markdown_lines, summarize, table_rows
from xvit.experiments.benchmark.run import BenchmarkConfig, Measurement, ModelResult, parse_groups
from xvit.utils.errors import XViTError
from xvit.utils.workers import Killed

SMALL = ("--backbone", "test_vit", "--threads", 1, "--rounds", 2)  # timm's model for tests: 160 px
PUBLISHED = Path(__file__).parents[2] / "docs" / "benchmark"


def make_result(model, frames, seconds, *, peak_mb=100) -> ModelResult:
    settings = GroupSettings(
        backbone="b", frames=frames, precision="fp32", mode="inference", batch_size=1, compiled=False, device="cpu",
        threads=1, rounds=3,
    )  # fmt: skip
    return ModelResult(
        model=model,
        settings=settings,
        measurement=Measurement(parameters=2_000_000, macs=10**10, seconds=seconds, peak_bytes=peak_mb * 10**6),
        macs_per_second=[20e9, 20e9, 40e9],
        empty_bytes=50 * 10**6,
    )


def _is_killed(name: str, settings: GroupSettings) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _allocates_too_much(name: str, settings: GroupSettings) -> Killed | int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_build", lambda name, settings: torch.empty(2**60))
        return _run_and_get_peak(name, settings)


@pytest.mark.parametrize(
    ("run_and_get_peak", "reason"),
    [(_is_killed, "the process was killed (signal 9)"), (_allocates_too_much, "the process ended with RuntimeError")],
)
def test_a_model_that_does_not_fit_is_named(run_and_get_peak, reason, monkeypatch):
    monkeypatch.setattr(measure, "_run_and_get_peak", run_and_get_peak)
    settings = make_result("a", 2, [1.0]).settings
    with pytest.raises(XViTError, match=rf"^a, inference, T = 2: not enough memory \(.*{re.escape(reason)}"):
        measure.measure_peak_bytes("a", settings)


def test_the_command_measures_each_group_once(run, cli_error, tmp_path, monkeypatch):
    """Two frames, then four too, of which the memory is not measured."""
    monkeypatch.setattr(measure, "_MATMULS_PER_STEP", 1)
    monkeypatch.setattr(measure, "_MEMORY_RUNS", 1)
    output = tmp_path / "bench"
    words = ("benchmark", "--output", output, *SMALL, "--models", "image model", "xvit mixing", "VideoMAE")
    words += ("--precisions", "fp32", "--modes", "inference")
    assert run(*words, "--frames", 2)[0] == 0
    first = json.loads((output / "benchmark.json").read_text())["groups"]
    monkeypatch.setattr(measure, "measure_peak_bytes", lambda name, settings: 10**8)
    code, out, _ = run(*words, "--frames", 2, 4)
    assert code == 0
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.md", "benchmark.png"}
    saved = json.loads((output / "benchmark.json").read_text())
    assert list(saved["groups"]) == ["inference, fp32, T=2", "inference, fp32, T=4"]
    assert first == {"inference, fp32, T=2": saved["groups"]["inference, fp32, T=2"]}
    for frames, group in zip((2, 4), saved["groups"].values(), strict=True):
        assert group["models"].keys() == {"image model", "xvit mixing", "VideoMAE"}
        for measurement in group["models"].values():
            assert len(measurement["seconds"]) == 2
            assert min(measurement["seconds"]) > 0
            assert measurement["peak_bytes"] > 50e6
        image_model = group["models"]["image model"]
        parameters = build_model("image model", backbone="test_vit", frames=2).parameters()
        assert image_model["parameters"] == sum(parameter.numel() for parameter in parameters)
        macs_of_2_frames = saved["groups"]["inference, fp32, T=2"]["models"]["image model"]["macs"]
        assert image_model["macs"] == frames * macs_of_2_frames // 2
        assert len(group["macs_per_second"]) == 2
    assert "T/2 to T" in out
    assert "VideoMAE" in (output / "benchmark.md").read_text()

    monkeypatch.setattr(run_module, "measure_group", lambda *_: pytest.fail("measured again"))
    assert run(*words, "--frames", 2, 4, "--json")[0] == 0
    fewer = ("benchmark", "--output", output, *SMALL, "--models", "VideoMAE", "--frames", 2, "--precisions", "fp32")
    assert run(*fewer, "--modes", "inference", "--json")[0] == 0
    assert "measured with rounds = 2, not 3" in cli_error(*words, "--frames", 2, "--rounds", 3)
    for damaged in ("{", '{"groups": {}}'):
        (output / "benchmark.json").write_text(damaged)
        message = cli_error(*words, "--frames", 2)
        assert "benchmark.json: damaged (" in message
        assert "choose another --output" in message


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("plan", "rounds", 7),
        ("plan", "backbone", "vit_tiny_patch16_224"),
        ("plan", "threads", 3),
        ("machine", "processor", "abacus"),
        ("machine", "torch", "1.0"),
        ("machine", "xvit", "0.0"),
    ],
)
def test_other_settings_and_other_machines_are_refused(part, name, value, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "measure_group", lambda *_: pytest.fail("measured"))
    config = BenchmarkConfig(models=("image model",), backbone="test_vit", frames=(2,), modes=("inference",))
    saved = {"plan": json.loads(json.dumps(asdict(config))), "machine": run_module.machine_info(config), "groups": {}}
    saved[part][name] = value
    (tmp_path / "benchmark.json").write_text(json.dumps(saved))
    before = file_hashes(tmp_path)
    with pytest.raises(XViTError, match=rf"measured with {name} = {value}, not .*; choose another --output"):
        run_module.run_benchmark(tmp_path, config, lambda *_: None)
    assert file_hashes(tmp_path) == before


def test_a_directory_without_a_benchmark_is_an_error(cli_error, tmp_path):
    (tmp_path / "mine.txt").touch()
    message = cli_error("benchmark", "--output", tmp_path, *SMALL, "--frames", 2)
    assert "it has no benchmark.json of a benchmark to resume; choose another --output" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "VideoMAEE"), 'Did you mean "VideoMAE"'),
        (("--frames", 3), "expected even numbers"),
        (("--models", "MViT v2 small", "--frames", 8), "--frames 8: none of the models supports these"),
        (("--precisions", "fp8"), "expected one of fp32, bf16"),
        (("--modes", "training", "sleeping"), "expected one of inference, training"),
        (("--rounds", 0), "at least 1"),
        (("--batch-size", 0), "--batch-size=0: expected a number, at least 1"),
        (("--device", "moon"), "device='moon' is not available"),
        (("--backbone", "test_vitt"), "timm has no such model"),
        (("--backbone", "resnet18"), "not one of timm's VisionTransformer"),
    ],
)
def test_invalid_arguments_are_reported_before_the_first_measurement(words, message, cli_error, tmp_path):
    assert message in cli_error("benchmark", "--output", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.image_size is None])
def test_models_have_the_size_of_the_backbone(name):
    with torch.device("meta"):
        model = build_model(name, backbone="test_vit", frames=4).eval()
        outputs = 8 if name == "image model" else 2  # the image model has one output per frame
        assert model(torch.empty(2, 4, 3, 160, 160)).shape == (outputs, 400)
        image_model = build_model("image model", backbone="test_vit", frames=4)
    size, image_size = (sum(p.numel() for p in each.parameters() if p.ndim == 2) for each in (model, image_model))
    # The same matrices; divided attention adds temporal ones, and XViT a temporal head.
    assert image_size <= size < 1.7 * image_size


def test_ratios_are_taken_within_each_round():
    """The second round takes twice as long for both models; the ratio is 1.5 in each round."""
    table = ResultTable(
        [make_result("image model", 8, [1.0, 2.0, 1.0]), make_result("xvit mixing", 8, [1.5, 3.0, 1.5], peak_mb=150)]
    )
    assert table.time_ratio("xvit mixing", 8) == 1.5
    [_, row] = table_rows(table)
    assert row == (
        "xvit mixing", "8", "2.0", "10.0", "1500 [1500, 2250]", "187.5", "1.500", "150", "1.500", "17 %", ""
    )  # fmt: skip


def test_the_summary_lists_cost_growth_and_the_faster_models():
    slow, fast = [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]
    results = [
        make_result("image model", 8, fast),
        make_result("xvit mixing alone", 8, slow, peak_mb=102),
        make_result("xvit mixing", 8, slow),
        make_result("xvit mixing", 64, [15.0] * 3),
        make_result("xvit mixing, tubelet 2", 16, fast, peak_mb=90),
        make_result("VideoMAE", 16, slow),
        make_result("ViViT", 16, fast, peak_mb=80),
    ]
    assert list(summarize(ResultTable(results))) == [
        "T = 8: relative to the image model, xvit mixing alone takes 2.000 of the time and 1.020 of the memory "
        "(1.040 above an empty process); xvit mixing takes 2.000 of the time and 1.000 of the memory "
        "(1.000 above an empty process)",
        "xvit mixing: T = 64 takes 7.50 times as long as T = 8",
        "T = 16: ViViT (1000 ms, 80 MB): faster with less memory: none of the xvit mixing models",
        "T = 16: VideoMAE (2000 ms, 100 MB): faster with less memory: xvit mixing, tubelet 2",
    ]


def test_times_are_per_clip_for_any_batch_size():
    result = make_result("xvit mixing", 8, [4.0, 4.0, 4.0])
    table = ResultTable([replace(result, settings=replace(result.settings, batch_size=4))])
    assert table.ms_per_clip("xvit mixing", 8) == 1000
    [row] = table_rows(table)
    assert row[4:6] == ("1000 [1000, 1000]", "125.0")


def test_the_published_document_is_what_the_command_writes():
    saved = json.loads((PUBLISHED / "benchmark.json").read_text())
    config = BenchmarkConfig(**{name: tuple(v) if isinstance(v, list) else v for name, v in saved["plan"].items()})
    lines = markdown_lines(config, saved["machine"], make_tables(list(parse_groups(saved["groups"]))))
    assert (PUBLISHED / "benchmark.md").read_text() == "\n".join(lines)
