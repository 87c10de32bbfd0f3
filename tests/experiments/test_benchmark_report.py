"""The report of the benchmark: its rows, what did not converge, the published document."""

from pathlib import Path

from helpers.color_videos import SIZE  # noqa: F401 - sets torch's threads
from xvit.experiments.benchmark import run as run_module
from xvit.experiments.benchmark.measure import GroupSettings
from xvit.experiments.benchmark.report import (
    ResultTable,
    compact_rows,
    make_tables,
    markdown_lines,
    summarize,
    table_rows,
)
from xvit.experiments.benchmark.run import GroupResult, Measurement, read_benchmark

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
    """`xvit benchmark --output docs/results/benchmark --report-only` writes it again."""
    groups, machine = read_benchmark(PUBLISHED)
    assert (PUBLISHED / "benchmark.md").read_text() == "\n".join(markdown_lines(machine, make_tables(groups)))
    assert {path.name for path in PUBLISHED.iterdir()} >= {f"{group.settings.mode}.png" for group in groups}


def test_every_published_ratio_is_precise():
    groups, _ = read_benchmark(PUBLISHED)
    ratios = [ratio for group in groups for ratio in group.ratios.values()]
    assert len(ratios) >= 20
    assert all(ratio.low and ratio.margin <= 2 for ratio in ratios)


def test_the_readme_quotes_the_published_document():
    """Each row of its table of ratios to the image model."""
    readme = PUBLISHED.parents[2] / "README.md"
    table = readme.read_text().partition("<!-- from docs/results/benchmark/benchmark.md -->\n")[2].partition("\n\n")[0]
    lines = table.splitlines()
    assert len(lines) > 3
    published = (PUBLISHED / "benchmark.md").read_text().splitlines()
    assert [line for line in lines if line not in published] == []
