"""The benchmark: what is measured, resuming, and the report."""

import json
import os
import re
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers.models.timesformer.modeling_timesformer import TimesformerSelfAttention

from helpers.changed_videos import file_hashes
from helpers.color_videos import SIZE  # noqa: F401 - sets torch's threads
from xvit.experiments.benchmark import measure
from xvit.experiments.benchmark import run as run_module
from xvit.experiments.benchmark.measure import GroupSettings, _run_and_get_peak
from xvit.experiments.benchmark.peers import MODELS, build_model
from xvit.experiments.benchmark.report import (
    ResultTable,
    compact_rows,
    make_tables,
    markdown_lines,
    summarize,
    table_rows,
)
from xvit.experiments.benchmark.run import BenchmarkConfig, GroupResult, Measurement, read_benchmark
from xvit.utils.errors import XViTError
from xvit.utils.workers import Killed

SMALL = ("--backbones", "test_vit", "--threads", 1, "--time-limit", 0)  # timm's model for tests: 160 px; one round
PUBLISHED = Path(__file__).parents[2] / "docs" / "benchmark"


def make_group(frames: int, models: dict[str, list[float]], *, peak_mb: dict[str, list[int]] | None = None, **setting):
    """A group with these seconds; models take 100 MB unless stated otherwise."""
    settings = dict(
        backbone="b", precision="fp32", mode="inference", batch_size=1, compiled=False, device="cpu", threads=1
    )
    measurements = {
        name: Measurement(
            parameters=2_000_000,
            macs=10**10,
            seconds=seconds,
            peak_bytes=[10**6 * peak for peak in (peak_mb or {}).get(name, [100, 100])],
        )
        for name, seconds in models.items()
    }
    return GroupResult(
        settings=GroupSettings(frames=frames, **(settings | setting)),
        margin=1.0,
        wall_seconds=60.0,
        empty_bytes=[50 * 10**6] * 2,
        models=measurements,
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
    settings = make_group(2, {"image model": [1.0]}).settings
    with pytest.raises(XViTError, match=rf"^a, inference, T = 2: not enough memory \(.*{re.escape(reason)}"):
        measure.measure_peak_bytes("a", settings)


def read_groups(output: Path) -> dict:
    return json.loads((output / "benchmark.json").read_text())["groups"]


def test_the_command_measures_each_group_once(run, cli_error, tmp_path, monkeypatch):
    """Two frames, then four too, of which the memory is not measured."""
    monkeypatch.setattr(measure, "_MEMORY_RUNS", 1)
    output = tmp_path / "bench"
    words = ("benchmark", "--output", output, *SMALL, "--models", "xvit mixing", "VideoMAE", "--modes", "inference")
    assert run(*words, "--frames", 2, "--margin", 1000)[0] == 0
    first = read_groups(output)
    monkeypatch.setattr(measure, "measure_peak_bytes", lambda name, settings: [10**8 if name else 10**7])
    code, out, err = run(*words, "--frames", 4)
    assert code == 0
    assert "widest interval: none; not within ±1 %: xvit mixing, VideoMAE" in err
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.md", "inference.png"}
    groups = read_groups(output)
    assert list(groups) == ["test_vit, inference, fp32, T=2", "test_vit, inference, fp32, T=4"]
    assert first == {"test_vit, inference, fp32, T=2": groups["test_vit, inference, fp32, T=2"]}
    for frames, group in zip((2, 4), groups.values(), strict=True):
        assert list(group["models"]) == ["image model", "xvit mixing", "VideoMAE"]  # the image model always
        assert group["wall_seconds"] > 0
        for measurement in group["models"].values():
            assert len(measurement["seconds"]) == group["rounds"] == 1  # one round if there is no time
            assert min(measurement["seconds"]) > 0
            assert min(measurement["peak_bytes"]) > 50e6
        ratio = group["time_ratios"]["VideoMAE"]
        seconds = [group["models"][name]["seconds"][0] for name in ("VideoMAE", "image model")]
        assert ratio == {
            "median": seconds[0] / seconds[1],
            "low": None,
            "high": None,
            "outliers": [],
            "margin_percent": None,
            "converged": False,
        }
        image_model = group["models"]["image model"]
        parameters = build_model("image model", backbone="test_vit", frames=2).parameters()
        assert image_model["parameters"] == sum(parameter.numel() for parameter in parameters)
        macs_of_2_frames = groups["test_vit, inference, fp32, T=2"]["models"]["image model"]["macs"]
        assert image_model["macs"] == frames * macs_of_2_frames // 2
    assert "no interval: 1 of 7 rounds" in out

    report = (output / "benchmark.md").read_text()
    (output / "benchmark.md").unlink()
    monkeypatch.setattr(run_module, "add_rounds", lambda *_: pytest.fail("measured again"))
    code, out, _ = run("benchmark", "--output", output, "--report-only", "--json")
    assert code == 0
    assert (output / "benchmark.md").read_text() == report
    printed = json.loads(out)
    assert [group["time_ratios"] for group in printed] == [group["time_ratios"] for group in groups.values()]
    assert [group["rounds"] for group in printed] == [1, 1]
    assert "measured with batch_size = 1, not 3" in cli_error(*words, "--frames", 2, "--batch-size", 3)
    for damaged in ("{", '{"groups": {}}'):
        (output / "benchmark.json").write_text(damaged)
        message = cli_error(*words, "--frames", 2)
        assert "benchmark.json: damaged (" in message
        assert "choose another --output" in message


@pytest.fixture
def instant(monkeypatch):
    """Measure nothing: each group gets the rounds of a list, all of one second; returns the calls."""
    calls = []

    def add_rounds(group, settings, limits, on_step):
        calls.append((settings, limits))
        on_step("round 1")
        for model in group["models"].values():
            model["seconds"] += [1.0] * 8
        group["wall_seconds"] += 10.0

    def measure_models(names, settings, on_step):
        models = {name: {"parameters": 1, "macs": 1, "peak_bytes": [1], "seconds": []} for name in names}
        return {"setting": asdict(settings), "wall_seconds": 0.0, "empty_bytes": [0], "models": models}

    monkeypatch.setattr(run_module, "add_rounds", add_rounds)
    monkeypatch.setattr(run_module, "measure_models", measure_models)
    return calls


def small_config(**options) -> BenchmarkConfig:
    defaults = {"models": ("xvit mixing",), "backbones": ("test_vit",), "frames": (2,), "modes": ("inference",)}
    return BenchmarkConfig(**(defaults | options))


def test_the_time_is_shared_by_what_a_round_costs(instant, tmp_path):
    """Most first: T = 4 costs twice as much as T = 2, training three times as much as inference: 6 : 3 : 2 : 1."""
    config = small_config(frames=(2, 4), modes=("inference", "training"), time_limit=2.0)
    results = run_module.run_benchmark(tmp_path, config, lambda *_: None)
    order = [(settings.mode, settings.frames) for settings, _ in instant]
    assert order == [("training", 4), ("training", 2), ("inference", 4), ("inference", 2)]
    seconds = [limits.seconds for _, limits in instant]  # each takes 10 s
    assert seconds == pytest.approx([120 * 6 / 12, 110 * 3 / 6, 100 * 2 / 3, 90])
    assert sorted(group.settings.frames for group in results) == [2, 2, 4, 4]
    saved = [(group["setting"]["mode"], group["setting"]["frames"]) for group in read_groups(tmp_path).values()]
    assert saved == [("inference", 2), ("inference", 4), ("training", 2), ("training", 4)]  # as in the report


def test_only_groups_that_lack_precision_or_models_are_measured_again(instant, tmp_path):
    path = tmp_path / "benchmark.json"
    run_module.run_benchmark(tmp_path, small_config(frames=(2, 4)), lambda *_: None)
    assert len(instant) == 2
    run_module.run_benchmark(tmp_path, small_config(frames=(2, 4)), lambda *_: None)
    assert len(instant) == 2  # all ratios are exact

    saved = json.loads(path.read_text())
    key = "test_vit, inference, fp32, T=4"
    saved["groups"][key]["models"]["xvit mixing"]["seconds"][:4] = [1.2, 0.8, 1.2, 0.8]
    path.write_text(json.dumps(saved))
    run_module.run_benchmark(tmp_path, small_config(frames=(2, 4)), lambda *_: None)
    assert [settings.frames for settings, _ in instant[2:]] == [4]
    group = read_groups(tmp_path)[key]
    assert group["models"]["xvit mixing"]["seconds"] == [1.2, 0.8, 1.2, 0.8] + [1.0] * 12  # more rounds
    assert group["rounds"] == 16

    run_module.run_benchmark(tmp_path, small_config(models=("VideoMAE",)), lambda *_: None)
    assert [settings.frames for settings, _ in instant[3:]] == [2]
    group = read_groups(tmp_path)["test_vit, inference, fp32, T=2"]
    assert list(group["models"]) == ["image model", "xvit mixing", "VideoMAE"]
    assert group["rounds"] == 8  # from the first round on


def test_ctrl_c_reports_the_rounds_so_far(instant, run, tmp_path, monkeypatch):
    add_rounds = run_module.add_rounds

    def interrupted(group, settings, limits, on_step):
        if settings.frames == 2:
            for model in group["models"].values():
                model["seconds"] += [1.0, 2.0]
            raise KeyboardInterrupt
        add_rounds(group, settings, limits, on_step)

    monkeypatch.setattr(run_module, "add_rounds", interrupted)
    words = ("benchmark", "--output", tmp_path, *SMALL, "--models", "xvit mixing", "--modes", "inference")
    code, out, err = run(*words, "--frames", 2, 4)
    assert code == 130
    assert "stopped early: the report has the rounds up to here" in err
    assert err.endswith("xvit: stopped. Run the same command to continue.\n")
    assert "no interval: 2 of 7 rounds" in out
    assert "no interval: 2 of 7 rounds" in (tmp_path / "benchmark.md").read_text()
    assert [group["rounds"] for group in read_groups(tmp_path).values()] == [2, 8]


def test_ctrl_c_before_the_first_round(instant, run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "add_rounds", interrupted)
    code, out, err = run("benchmark", "--output", tmp_path, *SMALL, "--models", "xvit mixing", "--frames", 2)
    assert (code, out, err) == (130, "", "xvit: stopped. Run the same command to continue.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("plan", "batch_size", 7),
        ("plan", "compiled", True),
        ("plan", "threads", 3),
        ("machine", "processor", "abacus"),
        ("machine", "torch", "1.0"),
        ("machine", "xvit", "0.0"),
    ],
)
def test_other_settings_and_other_machines_are_refused(part, name, value, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "measure_models", lambda *_: pytest.fail("measured"))
    config = small_config()
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
        (("--margin", 0), "--margin=0.0: expected a number, at least 0.01"),
        (("--time-limit", -1), "--time-limit=-1.0: expected a number, at least 0"),
        (("--report-only",), "benchmark.json: not found: there are no measurements yet"),
        (("--batch-size", 0), "--batch-size=0: expected a number, at least 1"),
        (("--device", "moon"), "device='moon' is not available"),
        (("--backbones", "test_vitt"), "timm has no such model"),
        (("--backbones", "test_vit", "resnet18"), "not one of timm's VisionTransformer"),
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


def test_the_fused_attention_of_timesformer_is_its_own():
    """Beside the library's attention, on tokens of a frame and of a location's frames."""
    model = build_model("TimeSformer", backbone="test_vit", frames=4).eval().model
    fused = model.timesformer.encoder.layer[0].attention.attention
    own = TimesformerSelfAttention(model.config)
    own.load_state_dict(fused.state_dict())
    for tokens in (torch.randn(2, 101, 64), torch.randn(200, 4, 64)):
        with torch.no_grad():
            torch.testing.assert_close(fused(tokens)[0], own.eval()(tokens)[0], rtol=0, atol=1e-5)
    modules = [type(module) for module in model.modules()]
    assert TimesformerSelfAttention not in modules
    assert modules.count(type(fused)) == 2 * len(model.timesformer.encoder.layer)


def test_a_row_of_the_table():
    """The second round takes twice as long for both models; the ratio is 1.5 in each round."""
    seconds = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    models = {"image model": seconds, "xvit mixing": [1.5 * value for value in seconds]}
    table = ResultTable([make_group(8, models, peak_mb={"xvit mixing": [150, 153]})])
    first, row = table_rows(table)
    assert first[:4] == ("image model", "8", "1", "")
    assert row == (
        "xvit mixing", "8", "1.500 [1.500, 1.500]", "±0.0 %", "1500 [1500, 1500]", "187.5", "150",
        "1.500 [1.500, 1.530]", "2.0", "10.0", "7",
    )  # fmt: skip
    assert list(compact_rows(table)) == [("xvit mixing", "1.500 ± 0.0 %")]


def test_what_did_not_converge_is_marked():
    """After 8 rounds with one far from the others, and after three, which have no interval."""
    ratios = [1.5, 1.51, 1.49, 1.5, 1.5, 1.51, 1.49, 3.0]
    groups = [
        make_group(4, {"image model": [1.0] * 8, "xvit mixing": ratios, "VideoMAE": [2.0] * 8}),
        make_group(8, {"image model": [1.0] * 3, "xvit mixing": [2.0] * 3}),
    ]
    table = ResultTable(groups)
    cells = {(row[0], row[1]): row[2:4] for row in table_rows(table)}
    assert cells["xvit mixing", "4"] == ("1.500 [1.490, 3.000]", "±100.0 %, not within ±1 %")
    assert cells["VideoMAE", "4"] == ("2.000 [2.000, 2.000]", "±0.0 %")
    assert cells["xvit mixing", "8"] == ("2.000", "no interval: 3 of 7 rounds")
    assert list(compact_rows(table)) == [
        ("xvit mixing", "1.500 ± 100.0 % (not converged)", "2.000 (no interval)"),
        ("VideoMAE", "2.000 ± 0.0 %", ""),
    ]
    lines = list(summarize(table))
    assert lines[:2] == [
        "T = 4: rounds: 8, outliers among them: 1, time: 60 s, widest interval: ±1e+02 % (xvit mixing); not within "
        "±1 %: xvit mixing",
        "T = 8: rounds: 3, outliers among them: 0, time: 60 s, widest interval: none; not within ±1 %: xvit mixing",
    ]
    saved = run_module.ratios_to_json(groups[0])
    assert saved["xvit mixing"]["converged"] is False
    assert saved["xvit mixing"]["outliers"] == [7]
    assert saved["VideoMAE"] == {
        "median": 2.0, "low": 2.0, "high": 2.0, "outliers": [], "margin_percent": 0.0, "converged": True
    }  # fmt: skip


def test_the_summary_lists_cost_and_the_faster_models():
    slow, fast = [2.0] * 8, [1.0] * 8
    groups = [
        make_group(
            8, {"image model": fast, "xvit mixing alone": slow, "xvit mixing": slow},
            peak_mb={"xvit mixing alone": [102, 102]},
        ),
        make_group(
            16, {"image model": fast, "xvit mixing, tubelet 2": fast, "ViViT": fast, "VideoMAE": slow},
            peak_mb={"xvit mixing, tubelet 2": [90, 91], "ViViT": [80, 80]},
        ),
    ]  # fmt: skip
    table = ResultTable(groups)
    assert list(summarize(table))[2:] == [
        "T = 8: relative to the image model, xvit mixing alone takes 2.000 [2.000, 2.000] of the time and 1.020 of the "
        "memory (1.040 above an empty process); xvit mixing takes 2.000 [2.000, 2.000] of the time and 1.000 of the "
        "memory (1.000 above an empty process)",
        "T = 16: ViViT (1000 ms, 80 MB): faster with less memory: none of the xvit mixing models",
        "T = 16: VideoMAE (2000 ms, 100 MB): faster with less memory: xvit mixing, tubelet 2",
    ]
    # Not if the interval of the ratio, or the range of the memory, leaves it open.
    shaky = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.1]
    open_time = make_group(
        16, {"image model": fast, "xvit mixing": shaky, "VideoMAE": slow}, peak_mb={"xvit mixing": [90]}
    )
    assert "none of the xvit mixing models" in list(summarize(ResultTable([open_time])))[-1]
    open_memory = make_group(
        16, {"image model": fast, "xvit mixing": fast, "VideoMAE": slow}, peak_mb={"xvit mixing": [90, 101]}
    )
    assert "none of the xvit mixing models" in list(summarize(ResultTable([open_memory])))[-1]


def test_times_are_per_clip_for_any_batch_size():
    table = ResultTable([make_group(8, {"image model": [4.0, 4.0, 4.0]}, batch_size=4)])
    assert table.ms_per_clip("image model", 8) == 1000
    [row] = table_rows(table)
    assert row[4:6] == ("1000 [1000, 1000]", "125")


def test_the_published_document_is_what_the_command_writes():
    """`xvit benchmark --output docs/benchmark --report-only` writes it again."""
    groups, machine = read_benchmark(PUBLISHED)
    assert (PUBLISHED / "benchmark.md").read_text() == "\n".join(markdown_lines(machine, make_tables(groups)))
    assert {path.name for path in PUBLISHED.iterdir()} >= {f"{group.settings.mode}.png" for group in groups}


def test_the_readme_quotes_the_published_document():
    """Each row of its table of ratios to the image model."""
    readme = PUBLISHED.parents[1] / "README.md"
    table = readme.read_text().partition("<!-- from docs/benchmark/benchmark.md -->\n")[2].partition("\n\n")[0]
    lines = table.splitlines()
    assert len(lines) > 3
    published = (PUBLISHED / "benchmark.md").read_text().splitlines()
    assert [line for line in lines if line not in published] == []
