"""`xvit finetune` as a user runs it."""

import json

import pytest

from helpers import color_videos
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return color_videos.write_videos(tmp_path_factory.mktemp("clips") / "clips", train=1, val=1)


def test_from_clips_to_predictions(run, clips, checkpoint, recipe, tmp_path, monkeypatch, no_drawing):
    monkeypatch.setattr("xvit.experiments.finetune.ways.UPDATES", 1)
    output = tmp_path / "out"
    words = ["finetune", clips, "--init", checkpoint, "--config", recipe, "--output", output, "--data.num_workers", "0"]
    code, out, err = run(*words)
    assert code == 0
    assert "6 videos of 3 classes: blue 2, green 2, red 2" in err
    for text in ("head", "lora", "full", "(chosen)", "of 6 videos", f"Report: {output / 'report.md'}", "xvit predict"):
        assert text in out
    code, out, err = run(*words, "--json")
    assert code == 0
    assert "6 videos" not in err
    result = json.loads(out)
    assert result["model"] == str(output / "final" / "last")
    code, out, _ = run("predict", clips / "val" / "red", "--checkpoint", result["model"], "--json")
    assert code == 0
    assert set(json.loads(out)["predictions"][0]["labels"]) == {"blue", "green", "red"}


def test_size_of_the_frames(run, cli_error, clips, checkpoint, tmp_path, monkeypatch):
    def stop(output, recipe, **_):
        raise XViTError(f"{recipe.clip.image_size} pixels")

    monkeypatch.setattr("xvit.experiments.finetune.run.finetune", stop)
    words = ["finetune", clips, "--output", tmp_path / "out"]
    for start in (("--init", checkpoint), ("--backbone", "vit_tiny_patch16_224")):
        code, _, err = run(*words, *start, "--image-size", "32")
        assert (code, err.splitlines()[-1]) == (2, "xvit: error: 32 pixels")
    assert "0 pixels" in cli_error(*words, "--backbone", "vit_tiny_patch16_224")  # that of the image model
    assert "image_size=0" in cli_error(*words, "--image-size", "0")


def test_mistakes(cli_error, clips, checkpoint, recipe, tmp_path, monkeypatch):
    output = tmp_path / "out"
    words = ["finetune", clips, "--output", output]
    assert "--backbone x: not together with --init" in cli_error(*words, "--init", checkpoint, "--backbone", "x")
    assert "minutes=0" in cli_error(*words, "--minutes", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    message = cli_error(*words, "--backbone", "vit_tiny_patch16_224", "--data.num_workers", "0")
    assert "Hugging Face Hub" in message
    assert "--init FILE --backbone NAME" in message
    assert "--init motion, which comes with xvit" in message
    assert "--init.checkpoint_path" not in message  # an option of xvit train
    assert not output.exists()
