"""The benchmark: what is measured, and resuming."""

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
from xvit.experiments.benchmark.run import BenchmarkConfig, GroupResult, Measurement
from xvit.utils.errors import XViTError
from xvit.utils.workers import Killed

SMALL = ("--backbones", "test_vit", "--threads", 1, "--time-limit", 0)  # timm's model for tests: 160 px; one round
PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "benchmark"


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
