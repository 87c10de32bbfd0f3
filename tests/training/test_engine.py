"""The training loop against a plain PyTorch loop, its results, and its options."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from helpers.color_videos import CLASSES, CLIP, make_config
from helpers.training_runs import naive_rate, rows, same, stop_at, weights
from xvit.config import EvalConfig, RunConfig, from_dict, read_yaml
from xvit.data.annotations import load_splits, read_class_folders
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.data.transforms import normalize
from xvit.evaluation import evaluate, match_labels
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.training import fit, run
from xvit.utils.errors import XViTError


def naive_fit(config: RunConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A plain loop: SGD with Nesterov momentum, gradient clipping, EMA. Returns raw and EMA weights."""
    train = config.train
    data = read_class_folders(config.data.root)
    torch.manual_seed(train.seed)
    model = XViT(replace(config.model, num_classes=3))
    dataset = VideoDataset(samples=data.train, clip_spec=config.clip, augment=config.augment, seed=train.seed)
    loader = make_loader(dataset, batch_size=train.batch_size, sampler=EpochSampler(dataset))
    steps, step = len(loader) * train.epochs, 0
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    parameters = dict(model.named_parameters())
    momentum: dict[str, torch.Tensor] = {}
    ema = {name: value.detach().clone() for name, value in parameters.items()}
    for epoch in range(train.epochs):
        dataset.set_epoch(epoch)
        for batch in loader:
            logits = model(normalize(batch["pixels"], config.clip))
            loss = F.cross_entropy(logits, batch["labels"], label_smoothing=train.label_smoothing)
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
            lr = naive_rate(step, steps, round(train.warmup_epochs * len(loader)), train.lr)
            decay = 0.0 if step < 1 else min(train.ema_decay, 1 - (1 + step) ** (-2 / 3))
            with torch.no_grad():
                for (name, p), g in zip(parameters.items(), gradients, strict=True):
                    g = g * min(1.0, train.clip_grad / norm) + (train.weight_decay * p if id(p) in decayed else 0)
                    momentum[name] = 0.9 * momentum[name] + g if name in momentum else g
                    p -= lr * (g + 0.9 * momentum[name])
                    ema[name] = decay * ema[name] + (1 - decay) * p
            step += 1
    return {name: value.detach() for name, value in parameters.items()}, ema


def test_training_equals_a_plain_loop(videos, tmp_path):
    settings = {"optimizer": "sgd", "lr": 0.1, "clip_grad": 0.5, "weight_decay": 0.1, "label_smoothing": 0.2}
    config = make_config(videos, ema_decay=0.8, **settings)
    raw, ema = naive_fit(config)
    result = fit(config, tmp_path / "run")
    last = weights(result.last)
    state = load_file(tmp_path / "run" / "state" / "step_0000006" / "model.safetensors")
    assert not same(last, state)
    for name in raw:
        torch.testing.assert_close(state[name], raw[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(last[name], ema[name], rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_writes_its_files(videos, tmp_path):
    config = make_config(videos, epochs=8, ema_decay=0.5, eval_every=3)
    output = tmp_path / "run"
    events = []
    result = fit(config, output, on_progress=events.append)
    assert from_dict(RunConfig, read_yaml(output / "config.yaml"), "config.yaml") == config
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "data.json", "metrics.jsonl", "tensorboard", "best", "last", "state",
    }  # fmt: skip
    train, val = rows(output, "train"), rows(output, "eval")
    assert [row["epoch"] for row in val] == [3, 6, 8]
    assert [row["epoch"] for row in train] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["step"] for row in train] == [3 * epoch for epoch in range(1, 9)]
    assert train[-1]["loss"] < 0.8 * train[0]["loss"]
    assert all(row["data_seconds"] > 0 and row["compute_seconds"] > 0 and row["grad_norm"] > 0 for row in train)
    best = max(val, key=lambda row: row["top1"])
    assert best["top1"] > 0.6
    assert result.metrics == {
        key: best[key] for key in ("top1", "val_loss", "calibration_error", "videos")
    }  # no top-5 of 3 classes
    assert all((row["videos"], row["temporal_views"], row["spatial_views"]) == (6, 1, 1) for row in val)
    assert result.epoch == best["epoch"]
    checkpoint = XViT.from_pretrained(result.best)
    assert checkpoint.class_names == list(CLASSES)
    assert checkpoint.clip_spec == CLIP
    provenance = dict(checkpoint.provenance)
    assert XViT.from_pretrained(result.last).provenance["metrics"] == {key: val[-1][key] for key in result.metrics}
    assert provenance["metrics"] == result.metrics
    assert provenance["data"]["train_videos_per_class"] == {name: 4 for name in CLASSES}
    assert str(videos.parent) not in json.dumps(provenance)
    predictor = Predictor(checkpoint)
    correct = [predictor(videos / "val" / name / f"{i}.mp4").labels[0] == name for name in CLASSES for i in (0, 1)]
    assert sum(correct) / 6 == pytest.approx(best["top1"])
    assert [event.step for event in events if event.stage == "train"] == [1, 2, 3] * 8
    assert [event.step for event in events if event.stage == "eval"] == [4, 6, 6] * 3
    ended = [event for event in events if event.validation]
    assert [(event.epoch, event.validation.top1) for event in ended] == [(row["epoch"], row["top1"]) for row in val]
    assert {(event.epochs, event.steps) for event in events if event.stage == "train"} == {(8, 3)}
    assert events[-1].metrics["top1"] == val[-1]["top1"]
    assert list((output / "tensorboard").glob("events.*"))


def test_classes_that_a_mirror_exchanges_are_named(videos, tmp_path, caplog):
    shutil.copytree(videos, tmp_path / "videos")
    for split in ("train", "val"):
        for old, new in zip(CLASSES, ("turning_left", "turning_right"), strict=False):
            (tmp_path / "videos" / split / old).rename(tmp_path / "videos" / split / new)
    config = make_config(tmp_path / "videos", epochs=1)
    with caplog.at_level("INFO", logger="xvit"):
        fit(replace(config, augment=replace(config.augment, horizontal_flip=0.5)), tmp_path / "run")
    assert "mirrored clips count as the other class of a pair: turning_left and turning_right" in caplog.messages


def test_resuming_a_finished_run_does_not_train(videos, tmp_path):
    first = fit(make_config(videos), tmp_path / "run")
    before = weights(first.last)
    events = []
    again = fit(make_config(videos), tmp_path / "run", resume=True, on_progress=events.append)
    assert not events
    assert same(weights(again.last), before)
    assert replace(again, seconds=0) == replace(first, seconds=0)


def test_gradient_accumulation_equals_one_large_batch(videos, tmp_path, monkeypatch):
    """12 videos, as three accumulated batches of 4 or one batch of 12."""
    settings = {"optimizer": "sgd", "lr": 0.05, "epochs": 3, "clip_grad": 0.5}
    with monkeypatch.context() as patch:  # constant: an update uses the rate of its last batch
        patch.setattr(run, "build_schedule", lambda *_, **__: SimpleNamespace(step_update=lambda step: None))
        one = fit(make_config(videos, batch_size=12, **settings), tmp_path / "one")
        three = fit(make_config(videos, batch_size=4, grad_accum_steps=3, **settings), tmp_path / "three")
    for name, value in weights(one.last).items():
        torch.testing.assert_close(weights(three.last)[name], value, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_survive_a_stop(videos, tmp_path):
    settings = {"optimizer": "sgd", "lr": 0.05, "epochs": 3}
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fit(make_config(videos, grad_accum_steps=2, save_minutes=0.0, **settings), stopped, on_progress=stop_at(2, 2))
    states = sorted(path.name for path in (stopped / "state").iterdir())
    assert states[-1] in ("step_0000003", "step_0000005")  # saved after updates only: the 2nd and 3rd of 3 batches
    unstopped = fit(make_config(videos, grad_accum_steps=2, **settings), tmp_path / "unstopped")
    resumed = fit(make_config(videos, grad_accum_steps=2, save_minutes=0.0, **settings), stopped, resume=True)
    assert same(weights(unstopped.last), weights(resumed.last))


def test_precision_and_grad_checkpointing(videos, tmp_path):
    fp32 = fit(make_config(videos), tmp_path / "fp32")
    bf16 = fit(make_config(videos, precision="bf16", grad_checkpointing=True), tmp_path / "bf16")
    checkpointed = fit(make_config(videos, grad_checkpointing=True), tmp_path / "checkpointed")
    assert not same(weights(bf16.last), weights(fp32.last))
    for name, value in weights(fp32.last).items():
        torch.testing.assert_close(weights(checkpointed.last)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="fp16 is valid on a GPU")
def test_fp16_is_refused_on_a_cpu(videos, tmp_path):
    with pytest.raises(XViTError, match=r"train\.precision='fp16': not supported on a CPU; use fp32 or bf16"):
        fit(make_config(videos, precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_tasks_from_annotation_files(videos, tmp_path):
    """EPIC-KITCHENS-100's CSV: video segments with a verb and a noun each."""
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
    for split, number in (("train", 4), ("val", 2)):
        lines = []
        for label, name in enumerate(CLASSES):
            for index in range(number):
                video = f"P01_{split}{label}{index}"
                shutil.copy(videos / split / name / f"{index}.mp4", tmp_path / f"{video}.MP4")
                lines.append(f"{video}_0,P01,{video},00:00:00.00,00:00:00.50,{label},{int(label == 1)}\n")
        (tmp_path / f"{split}.csv").write_text(header + "".join(lines))
    (tmp_path / "verbs.txt").write_text("open\nclose\nwash\n")
    (tmp_path / "nouns.txt").write_text("pan\nlid\n")
    config = make_config(tmp_path, epochs=2)
    files = {"train": str(tmp_path / "train.csv"), "val": str(tmp_path / "val.csv")}
    names = (str(tmp_path / "verbs.txt"), str(tmp_path / "nouns.txt"))
    config = replace(config, data=replace(config.data, format="epic", label_files=names, **files))
    result = fit(config, tmp_path / "run")
    model = XViT.from_pretrained(result.best)
    assert model.class_names == {"verb": ["open", "close", "wash"], "noun": ["pan", "lid"]}
    assert model.provenance["data"]["train_videos_per_class"]["noun"] == {"pan": 8, "lid": 4}
    assert str(tmp_path) not in json.dumps(dict(model.provenance))
    data = load_splits(config.data)
    evaluated = evaluate(
        Predictor(model), match_labels(data.val, data.class_names, model.class_names), eval_config=EvalConfig()
    )
    assert evaluated.videos == 6
    assert set(evaluated.tasks) == {"verb", "noun"}
    assert evaluated.top1 == result.metrics["top1"]
