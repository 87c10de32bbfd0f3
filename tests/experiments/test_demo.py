"""The demonstration on a scale of seconds: stopped, gone on with, and what its report holds."""

import json
import re
from dataclasses import replace

import pytest
import torch
import yaml

import xvit.experiments.demo.run
from xvit.cli.main import main
from xvit.config import RunConfig, from_dict
from xvit.data.synthetic.motion import CLASSES
from xvit.experiments.demo.run import VARIANTS, Listener, default_recipe, run_demo
from xvit.inference.predictor import Predictor
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def tiny(recipe) -> RunConfig:
    """A recipe of one short epoch."""
    config = from_dict(RunConfig, yaml.safe_load(recipe.read_text()), recipe)
    return replace(config, train=replace(config.train, epochs=1))


@pytest.fixture(scope="module")
def demo(tmp_path_factory, tiny):
    """A demonstration stopped before the second evaluation, that then went on: its folder, summary, finished stages."""
    output = tmp_path_factory.mktemp("demo") / "out"
    told = []
    listener = Listener(finished=lambda name, seconds, earlier: told.append((name, earlier)))

    def stop(folder, *args):
        if folder.name == "spatial":
            raise KeyboardInterrupt
        return evaluate(folder, *args)

    evaluate = xvit.experiments.demo.run._evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xvit.experiments.demo.run, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_demo(output, recipe=tiny, clips_per_class=3, listener=listener)
    weights = (output / "xvit" / "last" / "model.safetensors").stat().st_mtime_ns
    summary = run_demo(output, recipe=tiny, clips_per_class=3, listener=listener)
    assert (output / "xvit" / "last" / "model.safetensors").stat().st_mtime_ns == weights
    return output, summary, told


def test_a_stopped_demo_goes_on_and_does_nothing_twice(demo):
    _, _, told = demo
    before = ["videos", "train xvit", "evaluate xvit", "train spatial"]
    after = ["evaluate spatial", "train order_blind", "evaluate order_blind", "predict files", "time a clip", "report"]
    assert told == [(name, False) for name in before] + [(n, True) for n in before] + [(n, False) for n in after]


def test_a_finished_demo_is_shown_again_without_any_work(demo, tiny):
    output, summary, _ = demo
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".png", ".html", ".mp4")}
    again = run_demo(output, recipe=tiny, clips_per_class=3)
    assert again == summary
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_table_compares_three_models_of_one_price(demo):
    rows = demo[1]["rows"]
    assert [row["key"] for row in rows] == list(VARIANTS)
    xvit, spatial, _ = rows
    assert xvit["parameters"] == spatial["parameters"]
    assert xvit["macs"] == pytest.approx(spatial["macs"], rel=0.01)
    for row in rows:
        assert row["videos"] == len(CLASSES)  # one of three a class is held out
        assert 0 <= row["top1"] <= row["top1_of_pairs"] <= 1
        assert row["top1"] == pytest.approx(sum(row["per_class"].values()) / len(CLASSES))
        assert sum(map(sum, row["confusion"])) == row["videos"]
        assert row["milliseconds"] > 0


def test_the_order_blind_model_is_blind_to_order_and_xvit_is_not(demo):
    pixels = torch.randint(0, 256, (2, 1, 4, 3, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(0))
    for key in ("xvit", "order_blind"):
        predictor = Predictor(demo[0] / key / "last")
        forwards, backwards = predictor.scores(pixels), predictor.scores(pixels.flip(2))
        assert torch.allclose(forwards, backwards, atol=1e-6) == (key == "order_blind"), key


def test_the_report_is_whole(demo):
    output, summary, _ = demo
    page = (output / "report.html").read_text()
    pictures = re.findall(r'src="([^"]+)"', page)
    assert len(pictures) == 6
    assert all((output / picture).stat().st_size > 1000 for picture in pictures)
    assert f"{100 * summary['rows'][0]['top1']:.1f} %" in page
    assert "{" not in page.split("<pre>")[0].split("</style>")[1]  # no field of the template left over
    for said in summary["predictions"]:
        assert said["path"].split("/")[-2] == said["truth"]


def test_another_folder_or_other_settings_are_refused(demo, tiny, tmp_path):
    output, _, _ = demo
    with pytest.raises(XViTError, match="other settings"):
        run_demo(output, recipe=tiny, clips_per_class=4)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(XViTError, match="not empty, and not a demonstration"):
        run_demo(tmp_path, recipe=tiny)
    with pytest.raises(XViTError, match="a file"):
        run_demo(tmp_path / "mine.txt", recipe=tiny)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "demo.json").write_text("{")
    with pytest.raises(XViTError, match="damaged"):
        run_demo(damaged, recipe=tiny)


def test_the_command_prints_the_table(demo, tiny, capfd, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads((demo[0] / "demo.json").read_text())["settings"]["recipe"]))
    words = ["demo", "--output", str(demo[0]), "--config", str(recipe), "--clips-per-class", "3"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert all(variant.name in out for variant in VARIANTS.values())
    assert "at most 50 %, by construction" in out
    assert "(done earlier)" in err
    assert main([*words, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rows"] == demo[1]["rows"]
    assert err == ""


def test_ctrl_c_says_that_the_same_command_goes_on(recipe, tmp_path, capfd, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt("a training's own advice: --resume")

    monkeypatch.setattr("xvit.experiments.demo.run.run_demo", stop)
    assert main(["demo", "--config", str(recipe), "--output", str(tmp_path)]) == 130
    out, err = capfd.readouterr()
    assert (out, err) == ("", "xvit: stopped. Run the same command to go on where it stopped.\n")


def test_the_recipe_comes_with_the_package():
    assert default_recipe().clip_spec.num_frames == default_recipe().model.num_frames
