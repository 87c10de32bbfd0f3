"""Training against plain torch, its folder, and its end under all kinds of trouble."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from helpers.color_videos import CLASSES, CLIP, make_model, recipe, write_videos
from helpers.training_runs import naive_rate, rows, same, weights
from xvit.config import EvalConfig, InitConfig, RunConfig, TrainConfig, from_dict, read_yaml
from xvit.data.annotations.formats import load_splits
from xvit.data.annotations.samples import read_class_folders
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.sampler import EpochSampler
from xvit.data.transforms import normalize
from xvit.evaluation import evaluate, match_labels
from xvit.inference.predictor import Predictor
from xvit.models.factory import create_model
from xvit.models.xvit import XViT
from xvit.training import engine
from xvit.training.engine import check_recipe, classification_loss, fit
from xvit.training.optim import build_optimizer, build_schedule, parameter_groups
from xvit.utils.errors import XViTError

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("colours"))


# Optimiser and schedule


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("vit_tiny_patch16_224", {"attention": "mixing", "summary_tokens": 1}),
        ("vit_tiny_patch16_224", {"attention": "divided", "temporal_position": "head"}),
        ("deit3_small_patch16_224", {"attention": "joint", "temporal_head": "mean"}),
        ("vit_base_patch14_reg4_dinov2", {"num_classes": {"verb": 2, "noun": 3}}),
        ("vit_base_patch16_clip_224", {"temporal_layers": 2}),
        ("vit_base_patch16_siglip_224", {}),
    ],
)
def test_every_parameter_is_in_one_group(backbone, options):
    options = {"num_classes": 3, **options}
    model = create_model(backbone, num_frames=4, backbone_kwargs=SMALL | {"img_size": 28 * 2}, **options)
    decayed, rest = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    places = [id(parameter) for group in (decayed, rest) for parameter in group["params"]]
    assert sorted(places) == sorted(id(parameter) for parameter in model.parameters())
    expected = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if type(module) in (nn.Linear, nn.Conv2d) and name == "weight":
                expected.add(id(parameter))
            elif isinstance(module, nn.Linear | nn.Conv2d):
                assert name == "bias"
    assert {id(parameter) for parameter in decayed["params"]} == expected
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in rest["params"]:
        kept = ("cls_token", "pos_embed", "reg_token", "latent", "temporal_position.weight", "position.weight")
        assert parameter.ndim == 1 or names[id(parameter)].endswith(kept), names[id(parameter)]


def test_frozen_parameters_are_in_no_group():
    model = make_model()
    model.backbone.requires_grad_(False)
    decayed, rest = parameter_groups(model, 0.1)
    assert len(decayed["params"]) + len(rest["params"]) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("steps", "warmup"), [(50, 10), (50, 0), (7, 6), (5, 9), (1, 0)])
def test_the_rate_warms_up_and_follows_a_cosine(steps, warmup):
    optimizer = build_optimizer(make_model(), TrainConfig(lr=0.5))
    schedule = build_schedule(optimizer, steps=steps, warmup_steps=warmup, lr=0.5)
    for step in [*range(steps), 0]:  # a function of the step alone: going back gives the same
        schedule.step_update(step)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(naive_rate(step, steps, min(warmup, steps), 0.5), rel=1e-12)


def test_the_loss_is_smoothed_and_summed_over_tasks():
    logits = {"verb": torch.randn(4, 2), "noun": torch.randn(4, 3)}
    labels = {"verb": torch.tensor([0, 1, 1, 0]), "noun": torch.tensor([2, 0, 1, 1])}
    expected = 0.0
    for task, values in logits.items():
        classes = values.shape[1]
        for row, label in zip(values, labels[task], strict=True):
            for c in range(classes):
                target = 0.3 / classes + 0.7 * (c == label)
                expected -= float(target * row.log_softmax(0)[c]) / 4
    assert classification_loss(logits, labels, 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_the_losses_of_tasks_are_weighted():
    logits = {"verb": torch.randn(4, 3), "noun": torch.randn(4, 5), "tool": torch.randn(4, 2)}
    labels = {task: torch.randint(part.shape[1], (4,)) for task, part in logits.items()}
    alone = {task: classification_loss(logits[task], labels[task]) for task in logits}
    weighted = classification_loss(logits, labels, 0.0, {"noun": 0.25, "tool": 0.0})
    torch.testing.assert_close(weighted, alone["verb"] + 0.25 * alone["noun"])


def test_a_weight_of_no_task_is_refused(videos, tmp_path):
    with pytest.raises(XViTError, match='loss_weights: no task "verb": the data set has one without a name'):
        fit(recipe(videos, loss_weights={"verb": 2.0}), tmp_path)


# The loop


def naive_fit(config: RunConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """SGD with Nesterov momentum, clipping, averaging: written out. Gives trained and averaged weights."""
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
    averaged = {name: value.detach().clone() for name, value in parameters.items()}
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
                    averaged[name] = decay * averaged[name] + (1 - decay) * p
            step += 1
    return {name: value.detach() for name, value in parameters.items()}, averaged


def test_the_loop_equals_one_written_out(videos, tmp_path):
    settings = {"optimizer": "sgd", "lr": 0.1, "clip_grad": 0.5, "weight_decay": 0.1, "label_smoothing": 0.2}
    config = recipe(videos, ema_decay=0.8, **settings)
    trained, averaged = naive_fit(config)
    result = fit(config, tmp_path / "run")
    found = weights(result.last)
    state = load_file(tmp_path / "run" / "state" / "step_0000006" / "model.safetensors")
    assert not same(found, state)
    for name in trained:
        torch.testing.assert_close(state[name], trained[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[name], averaged[name], rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_leaves_all_that_is_promised(videos, tmp_path):
    config = recipe(videos, epochs=8, ema_decay=0.5, eval_every=3)
    output = tmp_path / "run"
    events = []
    result = fit(config, output, on_progress=events.append)
    assert from_dict(RunConfig, read_yaml(output / "config.yaml"), "config.yaml") == config
    assert {path.name for path in output.iterdir()} == {
        "config.yaml", "metrics.jsonl", "tensorboard", "best", "last", "state",
    }  # fmt: skip
    train, val = rows(output, "train"), rows(output, "eval")
    assert [row["epoch"] for row in val] == [3, 6, 8]
    assert [row["epoch"] for row in train] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["step"] for row in train] == [3 * epoch for epoch in range(1, 9)]
    assert train[-1]["loss"] < 0.8 * train[0]["loss"]
    assert all(row["data_seconds"] > 0 and row["compute_seconds"] > 0 and row["grad_norm"] > 0 for row in train)
    best = max(val, key=lambda row: row["top1"])
    assert best["top1"] > 0.6
    assert result.metrics == {key: best[key] for key in ("top1", "top5", "val_loss")}
    assert result.epoch == best["epoch"]
    checkpoint = XViT.from_pretrained(result.best)
    assert checkpoint.class_names == list(CLASSES)
    assert checkpoint.clip_spec == CLIP
    provenance = dict(checkpoint.provenance)
    assert XViT.from_pretrained(result.last).provenance["metrics"] == {key: val[-1][key] for key in result.metrics}
    assert provenance["metrics"] == result.metrics
    assert provenance["data"]["train_videos_a_class"] == {name: 4 for name in CLASSES}
    assert str(videos.parent) not in json.dumps(provenance)
    predictor = Predictor(checkpoint)
    found = [predictor(videos / "val" / name / f"{i}.mp4").labels[0] == name for name in CLASSES for i in (0, 1)]
    assert sum(found) / 6 == pytest.approx(best["top1"])
    assert [event.step for event in events if event.stage == "train"] == [1, 2, 3] * 8
    assert [event.step for event in events if event.stage == "eval"] == [4, 6] * 3
    assert {(event.epochs, event.steps) for event in events if event.stage == "train"} == {(8, 3)}
    assert events[-1].metrics["top1"] == val[-2]["top1"]
    assert list((output / "tensorboard").glob("events.*"))


def test_resuming_a_finished_run_trains_no_further(videos, tmp_path):
    first = fit(recipe(videos), tmp_path / "run")
    before = weights(first.last)
    events = []
    again = fit(recipe(videos), tmp_path / "run", resume=True, on_progress=events.append)
    assert not events
    assert same(weights(again.last), before)
    assert replace(again, seconds=0) == replace(first, seconds=0)


def test_a_run_in_bfloat16_after_one_in_float32(videos, tmp_path):
    plain = fit(recipe(videos), tmp_path / "plain")
    low = fit(recipe(videos, precision="bf16", grad_checkpointing=True), tmp_path / "low")
    again = fit(recipe(videos, grad_checkpointing=True), tmp_path / "checkpointed")
    assert not same(weights(low.last), weights(plain.last))
    for name, value in weights(plain.last).items():
        torch.testing.assert_close(weights(again.last)[name], value, rtol=1e-4, atol=1e-6)


# Trouble


def test_a_folder_in_use_is_refused_or_gone_on_with(videos, tmp_path):
    output = tmp_path / "run"
    fit(recipe(videos, epochs=1), output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(XViTError, match=r"holds a training run: .*--resume.*--output"):
        fit(recipe(videos, epochs=1), output)
    with pytest.raises(XViTError, match=r"train\.epochs was 1, is now 2"):
        fit(recipe(videos), output, resume=True)
    deeper = {"backbone_kwargs": {**recipe(videos).model.backbone_kwargs, "depth": 3}}
    with pytest.raises(XViTError, match=r"model\.backbone_kwargs\.depth was 2, is now 3"):
        fit(recipe(videos, epochs=1, model=deeper), output, resume=True)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(XViTError, match="holds other things than a training run"):
            fit(recipe(videos), tmp_path / "other", resume=resume)
    with pytest.raises(XViTError, match="a file"):
        fit(recipe(videos), tmp_path / "other" / "thesis.txt")


def test_rows_cut_off_by_a_kill_are_dropped(videos, tmp_path):
    fit(recipe(videos, epochs=1), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(before + json.dumps({"stage": "train", "step": 4}) + '\n{"stage": "tr')
    (tmp_path / "bad_videos.jsonl").write_text('{"path": "a.mp4", "reason": "empty"}\n{"path": "b.m')
    assert fit(recipe(videos, epochs=1), tmp_path, resume=True).bad_videos == 1
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert (tmp_path / "bad_videos.jsonl").read_text().endswith('"empty"}\n')


def test_a_damaged_state_is_named(videos, tmp_path):
    fit(recipe(videos, epochs=1), tmp_path / "run")
    state = tmp_path / "run" / "state" / "step_0000003"
    for name in ("optimizer.bin", "model.safetensors", "position.json"):
        whole = (state / name).read_bytes()
        (state / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(XViTError, match=r"step_0000003: damaged"):
            fit(recipe(videos, epochs=1), tmp_path / "run", resume=True)
        (state / name).write_bytes(whole)


def test_bad_videos_are_skipped_and_named(tmp_path):
    root = write_videos(tmp_path / "videos")
    for name in ("train/red/x.mp4", "train/blue/y.mp4", "val/red/z.mp4"):
        (root / name).write_text("not a video")
    events = []
    result = fit(recipe(root, batch_size=4), tmp_path / "run", on_progress=events.append)
    bad = [json.loads(line) for line in (tmp_path / "run" / "bad_videos.jsonl").read_text().splitlines()]
    expected = ["train/blue/y.mp4", "train/red/x.mp4", "val/red/z.mp4"]
    assert sorted(row["path"] for row in bad) == [str(root / name) for name in expected]
    assert all(row["reason"] for row in bad)
    assert result.bad_videos == 3
    assert [event.bad_videos for event in events if event.stage == "train"][3] == 2
    assert [row["failed"] for row in rows(tmp_path / "run", "eval")] == [1, 1]


def test_a_batch_of_bad_videos_is_a_step_without_effect(tmp_path):
    root = write_videos(tmp_path / "videos", train=1)
    (root / "train" / "red" / "0.mp4").write_text("not a video")
    result = fit(recipe(root, batch_size=1), tmp_path / "run")
    assert rows(tmp_path / "run", "train")[-1]["step"] == 6
    assert result.bad_videos == 1


def test_an_epoch_of_bad_videos_stops(tmp_path):
    root = write_videos(tmp_path / "videos", train=1)
    for path in (root / "train").rglob("*.mp4"):
        path.write_text("not a video")
    with pytest.raises(XViTError, match=r"epoch 1: none of 3 videos could be read; the last: .*\.mp4"):
        fit(recipe(root), tmp_path / "run")


def test_a_loss_that_is_no_number_stops_with_its_videos(videos, tmp_path, monkeypatch):
    seen = []

    def poisoned(logits, labels, *settings, **options):
        seen.append(len(labels))
        return classification_loss(logits, labels, *settings, **options) * (math.nan if len(seen) == 5 else 1)

    monkeypatch.setattr(engine, "classification_loss", poisoned)
    with pytest.raises(XViTError, match=r"step 5 \(epoch 2\): the loss is nan") as caught:
        fit(recipe(videos), tmp_path / "run")
    named = str(caught.value).split("Videos of that step: ")[1].split(", ")
    dataset = VideoDataset(samples=read_class_folders(videos).train, clip_spec=CLIP, augment=recipe(videos).augment)
    dataset.set_epoch(1)
    order = [
        dataset.samples[i].id
        for batch in make_loader(dataset, batch_size=5, sampler=EpochSampler(dataset))
        for i in batch["indices"]
    ]
    assert named == order[5:10]
    kept = weights(tmp_path / "run" / "last")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert len(rows(tmp_path / "run", "eval")) == 1


def test_settings_that_do_not_go_together_are_told_before_any_reading(tmp_path):
    config = recipe(tmp_path / "nowhere")
    with pytest.raises(XViTError, match=r"model\.num_frames=4, clip\.num_frames=8"):
        fit(replace(config, clip=replace(CLIP, num_frames=8)), tmp_path / "run")
    with pytest.raises(XViTError, match=r"clip\.image_size=20: backbone vit_tiny_patch16_224 cannot take such frames"):
        fit(replace(config, clip=replace(CLIP, image_size=20)), tmp_path / "run")
    with pytest.raises(XViTError, match="no such folder"):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_recipe(replace(config, init=InitConfig(pretrained=True)))  # fetches nothing


@pytest.mark.skipif(torch.accelerator.is_available(), reason="where there is a GPU, fp16 is no mistake")
def test_a_precision_that_a_cpu_lacks(videos, tmp_path):
    with pytest.raises(XViTError, match=r"train\.precision='fp16': not on a CPU"):
        fit(recipe(videos, precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_fit_is_told_before_the_folder_is_made(videos, tmp_path):
    with pytest.raises(XViTError, match=r"model\.num_classes=5, but .* has 3 classes"):
        fit(recipe(videos, model={"num_classes": 5}), tmp_path / "run")
    config = recipe(videos / "train")
    with pytest.raises(XViTError, match="no validation videos"):
        fit(replace(config, data=replace(config.data, val_fraction=0.0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert fit(recipe(videos, model={"num_classes": 3}, epochs=1), tmp_path / "run").epoch == 1


def test_two_tasks_of_annotation_files(videos, tmp_path):
    """EPIC-KITCHENS-100's CSV: stretches of videos, a verb and a noun each."""
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
    config = recipe(tmp_path, epochs=2)
    files = {"train": str(tmp_path / "train.csv"), "val": str(tmp_path / "val.csv")}
    names = (str(tmp_path / "verbs.txt"), str(tmp_path / "nouns.txt"))
    config = replace(config, data=replace(config.data, format="epic", label_files=names, **files))
    result = fit(config, tmp_path / "run")
    model = XViT.from_pretrained(result.best)
    assert model.class_names == {"verb": ["open", "close", "wash"], "noun": ["pan", "lid"]}
    assert model.provenance["data"]["train_videos_a_class"]["noun"] == {"pan": 8, "lid": 4}
    assert str(tmp_path) not in json.dumps(dict(model.provenance))
    data = load_splits(config.data)
    evaluated = evaluate(
        Predictor(model), match_labels(data.val, data.class_names, model.class_names), eval_config=EvalConfig()
    )
    assert evaluated.videos == 6
    assert set(evaluated.tasks) == {"verb", "noun"}
    assert evaluated.top1 == result.metrics["top1"]
