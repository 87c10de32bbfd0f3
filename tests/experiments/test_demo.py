"""The demo on a small scale: stopping and resuming, its results, its report, the command."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from helpers.changed_videos import CHANGES, changed_video, file_hashes
from xvit.cli.demo import _Curves
from xvit.cli.main import find_command, main
from xvit.cli.parsing import CommandParser, parse_command, read_recipe
from xvit.config import RunConfig, from_dict
from xvit.data import record
from xvit.data.synthetic.motion import CLASSES
from xvit.experiments import common
from xvit.experiments.demo import run as run_module
from xvit.experiments.demo.report import next_commands
from xvit.experiments.demo.run import VARIANTS, DemoCallbacks, run_demo
from xvit.utils.errors import XViTError
from xvit.utils.version import library_versions


@pytest.fixture(scope="module")
def short_recipe(recipe) -> RunConfig:
    """A recipe of one short epoch."""
    config = from_dict(RunConfig, yaml.safe_load(recipe.read_text()), recipe)
    return replace(config, train=replace(config.train, epochs=1))


@pytest.fixture(scope="module")
def demo(tmp_path_factory, short_recipe):
    """A demo that was stopped before the second evaluation and resumed: its output, summary and finished stages."""
    output = tmp_path_factory.mktemp("demo") / "out"
    stages = []
    callbacks = DemoCallbacks(on_stage_end=lambda name, seconds, earlier: stages.append((name, earlier)))
    evaluate, calls = common.evaluate, []

    def stop_at_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "evaluate", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            run_demo(output, recipe=short_recipe, clips_per_class=3, callbacks=callbacks)
    weights = (output / "xvit" / "last" / "model.safetensors").stat().st_mtime_ns
    summary = run_demo(output, recipe=short_recipe, clips_per_class=3, callbacks=callbacks)
    assert (output / "xvit" / "last" / "model.safetensors").stat().st_mtime_ns == weights
    return output, summary, stages


def test_a_resumed_demo_repeats_no_finished_stage(demo):
    _, _, stages = demo
    before = ["first predictions", "videos", "train xvit", "evaluate xvit", "train spatial"]
    after = ["evaluate spatial", "predict files", "measure time", "report"]
    assert stages == [(n, False) for n in before] + [(n, True) for n in before] + [(n, False) for n in after]


def test_a_finished_demo_returns_the_saved_summary(demo, short_recipe):
    output, summary, _ = demo
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".png", ".html", ".mp4")}
    again = run_demo(output, recipe=short_recipe, clips_per_class=3)
    assert again == summary
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_rows_compare_two_models_of_equal_cost(demo):
    rows = demo[1]["rows"]
    assert [row["key"] for row in rows] == list(VARIANTS)
    xvit, spatial = rows
    assert xvit["parameters"] == spatial["parameters"]
    assert xvit["macs"] == pytest.approx(spatial["macs"], rel=0.01)
    for row in rows:
        assert row["videos"] == len(CLASSES)  # one of three videos per class is held out
        assert 0 <= row["top1"] <= row["top1_of_pairs"] <= 1
        assert row["top1"] == pytest.approx(sum(row["per_class"].values()) / len(CLASSES))
        assert sum(map(sum, row["confusion"])) == row["videos"]
        assert row["milliseconds"] > 0


def test_the_first_predictions_come_first(demo, short_recipe, tmp_path):
    """Before the data set is written; on videos that are in it, among the held-out ones."""
    output, summary, _ = demo
    events = []

    def stop(name, done, total):
        events.append(name)
        raise KeyboardInterrupt

    callbacks = DemoCallbacks(
        on_first_predictions=lambda predictions, picture: events.append((predictions, picture)), on_count=stop
    )
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "out", recipe=short_recipe, clips_per_class=3, callbacks=callbacks)
    (predictions, picture), *rest = events
    assert rest == ["writing videos"]
    assert (tmp_path / "out" / "pictures" / "first_predictions.png") == Path(picture)
    assert Path(picture).stat().st_size > 1000
    assert [item["ground_truth"] for item in predictions] == list(CLASSES)
    assert sum(item["prediction"] == item["ground_truth"] for item in predictions) >= 10
    assert [item["score"] for item in predictions] == [item["score"] for item in summary["first_predictions"]]
    for item in predictions:
        first = Path(item["path"])
        assert first.read_bytes() == output.joinpath("videos", "val", *first.parts[-2:]).read_bytes()


def test_the_report_is_complete(demo):
    output, summary, _ = demo
    page = (output / "report.html").read_text()
    pictures = re.findall(r'src="([^"]+)"', page)
    assert len(pictures) == 6
    assert "pictures/first_predictions.png" in pictures
    for command in next_commands(output):
        assert command in page
    assert all((output / picture).stat().st_size > 1000 for picture in pictures)
    assert f"{100 * summary['rows'][0]['top1']:.1f} %" in page
    assert "{" not in page.split("<pre>")[0].split("</style>")[1]  # every field of the template is filled in
    for prediction in summary["predictions"]:
        assert prediction["path"].split("/")[-2] == prediction["ground_truth"]


def test_other_directories_and_other_settings_raise_an_error(demo, short_recipe, tmp_path):
    output, _, _ = demo
    with pytest.raises(XViTError, match=r"other settings: clips_per_class was 3 and is now 4; choose another --output"):
        run_demo(output, recipe=short_recipe, clips_per_class=4)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(XViTError, match=r"not an empty directory; it has no demo\.json of a demo to resume"):
        run_demo(tmp_path, recipe=short_recipe)
    with pytest.raises(XViTError, match=r"mine\.txt: exists; it has no demo\.json of a demo to resume; choose another"):
        run_demo(tmp_path / "mine.txt", recipe=short_recipe)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "demo.json").write_text("{")
    with pytest.raises(XViTError, match=r"demo\.json: damaged \(.*\); choose another --output"):
        run_demo(damaged, recipe=short_recipe)


@pytest.mark.parametrize("change", CHANGES)
def test_other_videos_are_refused(change, demo, short_recipe):
    """The models that are trained already have used the videos as they were."""
    output = demo[0]
    with changed_video(output / "videos", change) as what:
        before = file_hashes(output)
        message = rf"videos: the data changed since the experiment was started: {what}; undo these changes, or choose"
        with pytest.raises(XViTError, match=message):
            run_demo(output, recipe=short_recipe, clips_per_class=3)
        assert file_hashes(output) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"clips_per_class": 4}, "clips_per_class was 3 and is now 4"),
        ({"lr": 0.5}, r"recipe\.train\.lr was .* and is now 0\.5"),
    ],
)
def test_other_settings_are_named_and_change_nothing(options, message, demo, short_recipe):
    output = demo[0]
    before = file_hashes(output)
    options = {"clips_per_class": 3, **options}
    recipe = replace(short_recipe, train=replace(short_recipe.train, lr=options.pop("lr", short_recipe.train.lr)))
    with pytest.raises(XViTError, match=f"holds a demo with other settings: {message}; choose another --output"):
        run_demo(output, recipe=recipe, **options)
    assert file_hashes(output) == before


def test_other_library_versions_are_said(demo, short_recipe, monkeypatch, caplog):
    versions = {**library_versions(), "torch": "9"}
    monkeypatch.setattr(record, "library_versions", lambda: versions)
    run_demo(demo[0], recipe=short_recipe, clips_per_class=3)
    assert re.search(r"was started with torch 2\.\S+ \(now 9\): the results of its parts differ", caplog.text)


def test_the_command_prints_the_table(demo, capfd, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads((demo[0] / "demo.json").read_text())["settings"]["recipe"]))
    words = ["demo", "--output", str(demo[0]), "--config", str(recipe), "--clips-per-class", "3"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert all(variant.name in out for variant in VARIANTS.values())
    assert "at most 50 %, by construction" in out
    assert err.index("--checkpoint motion") < err.index("first_predictions.png") < err.index("\nvideos ")
    assert re.search(r"moving_left +moving_left +\d+ % *\n", err)
    assert "(done earlier)" in err
    for command in next_commands(demo[0]):
        assert f"\n  {command}\n" in out
        monkeypatch.setattr(CommandParser, "check_paths", lambda *_: None)
        parse_command(*find_command(shlex.split(command)[1:]))
    assert main([*words, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rows"] == demo[1]["rows"]
    assert err == ""


def test_after_ctrl_c_the_command_says_how_to_resume(recipe, tmp_path, capfd, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt("a training's own advice: --resume")

    monkeypatch.setattr(run_module, "run_demo", stop)
    assert main(["demo", "--config", str(recipe), "--output", str(tmp_path)]) == 130
    out, err = capfd.readouterr()
    assert (out, err) == ("", "xvit: stopped. Run the same command to continue.\n")


def test_curves_are_drawn_from_the_metric_rows(demo):
    output, summary, _ = demo
    curves = _Curves(str(output))
    assert curves.render(80).renderables == []  # before the first training
    curves.update(epochs=1)
    lines = "".join(segment.text for segment in Console(width=80).render(curves.render(80))).splitlines()
    for row in summary["rows"]:
        assert f"{row['model']} {100 * row['top1']:.1f} %" in lines[-1]
    assert max(map(len, lines)) <= 80
    assert any(0x2800 < ord(character) < 0x2900 for character in "".join(lines))


def test_the_recipes_are_installed():
    for name in ("motion", "demo"):
        recipe = read_recipe(name)
        assert recipe.clip.num_frames == recipe.model.num_frames
