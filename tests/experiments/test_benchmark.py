"""The comparison of models: what is measured, kept, and said of it."""

import json
from dataclasses import replace

import pytest
import torch

from helpers.color_videos import SIZE  # noqa: F401 - sets torch's threads
from xvit.experiments.benchmark import run as run_module
from xvit.experiments.benchmark.entrants import ENTRANTS, build
from xvit.experiments.benchmark.measure import Measured, Setting
from xvit.experiments.benchmark.report import Table, cells, findings
from xvit.experiments.benchmark.run import Row

SMALL = ("--backbone", "test_vit", "--threads", 1, "--rounds", 2)  # timm's own for tests: 160 px


def test_the_command_measures_once_and_goes_on(run, refused, tmp_path, monkeypatch):
    output = tmp_path / "bench"
    words = ("benchmark", "--output", output, *SMALL, "--models", "image model", "xvit mixing", "VideoMAE")
    code, out, _ = run(*words, "--frames", 2, 4, "--precisions", "fp32", "--modes", "inference")
    assert code == 0
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.md", "benchmark.png"}
    found = json.loads((output / "benchmark.json").read_text())
    assert list(found["groups"]) == ["inference, fp32, T=2", "inference, fp32, T=4"]
    for frames, group in zip((2, 4), found["groups"].values(), strict=True):
        assert group["models"].keys() == {"image model", "xvit mixing", "VideoMAE"}
        for measured in group["models"].values():
            assert len(measured["seconds"]) == 2
            assert min(measured["seconds"]) > 0
            assert measured["peak_bytes"] > 50e6
        image = group["models"]["image model"]
        size = sum(p.numel() for p in build("image model", backbone="test_vit", frames=2).parameters())
        assert image["parameters"] == size
        assert image["macs"] == frames * found["groups"]["inference, fp32, T=2"]["models"]["image model"]["macs"] // 2
        assert len(group["macs_per_second"]) == 2
    assert "T/2 to T" in out
    assert "VideoMAE" in (output / "benchmark.md").read_text()

    monkeypatch.setattr(run_module, "measure", lambda *_: pytest.fail("measured again"))
    assert run(*words, "--frames", 2, 4, "--precisions", "fp32", "--modes", "inference", "--json")[0] == 0
    fewer = ("benchmark", "--output", output, *SMALL, "--models", "VideoMAE", "--frames", 2, "--precisions", "fp32")
    assert run(*fewer, "--modes", "inference", "--json")[0] == 0
    assert "measured with rounds = 2, not 3" in refused(*words, "--frames", 2, "--rounds", 3)
    for damaged in ("{", '{"groups": {}}'):
        (output / "benchmark.json").write_text(damaged)
        assert "damaged" in refused(*words, "--frames", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--models", "VideoMAEE"), 'Did you mean "VideoMAE"'),
        (("--frames", 3), "expected even numbers"),
        (("--precisions", "fp8"), "expected one of fp32, bf16"),
        (("--modes", "training", "sleeping"), "expected one of inference, training"),
        (("--rounds", 0), "at least 1"),
        (("--device", "moon"), "cannot be used here"),
        (("--backbone", "test_vitt"), "timm has no such model"),
        (("--backbone", "resnet18"), "not one of timm's VisionTransformer"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(words, message, refused, tmp_path):
    assert message in refused("benchmark", "--output", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, entrant in ENTRANTS.items() if not entrant.own_size])
def test_all_models_have_the_size_that_was_asked_for(name):
    with torch.device("meta"):
        model = build(name, backbone="test_vit", frames=4).eval()
        clips = 8 if name == "image model" else 2  # which takes each frame for a picture
        assert model(torch.empty(2, 4, 3, 160, 160)).shape == (clips, 400)
        image = build("image model", backbone="test_vit", frames=4)
    ours, theirs = (sum(p.numel() for p in each.parameters() if p.ndim == 2) for each in (model, image))
    # Of the same matrices; divided attention has temporal ones, and ours a temporal head.
    assert theirs <= ours < 1.7 * theirs


def row(model, frames, seconds, *, bytes=100, macs=10):
    setting = Setting(
        backbone="b", frames=frames, precision="fp32", mode="inference", batch_size=1, compiled=False, device="cpu",
        threads=1, rounds=3,
    )  # fmt: skip
    measured = Measured(parameters=2_000_000, macs=macs * 10**9, seconds=seconds, peak_bytes=bytes * 10**6)
    return Row(
        model=model, setting=setting, measured=measured, macs_per_second=[20e9, 20e9, 40e9], empty_bytes=50 * 10**6
    )


def test_ratios_are_taken_within_the_rounds():
    """The second round was twice as slow for both: the ratio is 1.5 in each."""
    table = Table([row("image model", 8, [1.0, 2.0, 1.0]), row("xvit mixing", 8, [1.5, 3.0, 1.5], bytes=150)])
    assert table.time_ratio("xvit mixing", "image model", 8) == 1.5
    [_, ours] = cells(table)
    assert ours == (
        "xvit mixing", "8", "2.0", "10.0", "1500 [1500, 2250]", "187.5", "1.500", "150", "1.500", "17 %", ""
    )  # fmt: skip


def test_growth_and_who_is_ahead_are_told():
    slow, quick = [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]
    rows = [
        row("image model", 8, quick),
        row("xvit mixing alone", 8, slow, bytes=102),
        row("xvit mixing", 8, slow),
        row("xvit mixing", 64, [15.0] * 3),
        row("xvit mixing, tubelet 2", 16, quick, bytes=90),
        row("VideoMAE", 16, slow),
        row("ViViT", 16, quick, bytes=80),
    ]
    told = list(findings(Table(rows)))
    assert told == [
        "T = 8: with mixing the image model takes 2.000 of its time, 1.020 of its memory (1.040 above an empty "
        "process); with temporal head and shortcut 2.000 of its time, 1.000 of its memory (1.000 above an empty "
        "process)",
        "xvit mixing: 7.50 times the time at T = 64 of that at T = 8",
        "T = 16: ViViT (1000 ms, 80 MB): nothing of ours is below it in both",
        "T = 16: VideoMAE (2000 ms, 100 MB): below it in time and memory: xvit mixing, tubelet 2",
    ]


def test_times_are_of_a_clip_whatever_the_batch():
    one = row("xvit mixing", 8, [4.0, 4.0, 4.0])
    table = Table([replace(one, setting=replace(one.setting, batch_size=4))])
    assert table.ms("xvit mixing", 8) == 1000
    [line] = cells(table)
    assert line[4:6] == ("1000 [1000, 1000]", "125.0")
