"""What a training changes (train.tune), and the frame vectors of a frozen backbone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from timm.utils import ModelEmaV3
from torch import nn

from helpers.color_videos import CLASSES, FRAMES, make_config, make_model, with_metadata, write_video
from helpers.training_runs import rows, same, stop_at, weights
from xvit.config import EvalConfig, InitConfig
from xvit.data.annotations import load_splits
from xvit.data.dataset import VideoDataset
from xvit.data.transforms import normalize
from xvit.evaluation import evaluate
from xvit.inference.predictor import Predictor
from xvit.models.lora import LoRALinear
from xvit.models.xvit import XViT
from xvit.training import fit, frame_cache
from xvit.training.run import TrainingRun
from xvit.utils.errors import Interrupted, XViTError

DROP = {"backbone_kwargs": {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}}
DROP["backbone_kwargs"]["drop_path_rate"] = 0.5


def initial_weights(config, checkpoint):
    torch.manual_seed(config.train.seed)
    return XViT(XViT.from_pretrained(checkpoint).config).state_dict()


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_tuning_the_head_changes_nothing_else(videos, tmp_path, ema_decay):
    config = make_config(videos, model=DROP, tune="head", ema_decay=ema_decay)
    result = fit(config, tmp_path / "run")
    initial, trained = initial_weights(config, result.last), weights(result.last)
    for name in trained:
        is_head = name.startswith(("temporal_head.", "classifier."))
        assert torch.equal(trained[name], initial[name]) != is_head, name


def test_lora_checkpoints_hold_plain_merged_weights(videos, tmp_path):
    config = make_config(videos, tune="lora", lora_rank=2, lr=0.03)
    result = fit(config, tmp_path / "run")
    initial, trained = initial_weights(config, result.last), weights(result.last)
    assert trained.keys() == initial.keys()
    for name in trained:
        is_projection = name.endswith(("qkv.weight", "attn.proj.weight"))
        is_frozen = name.startswith("backbone.") and not is_projection
        assert torch.equal(trained[name], initial[name]) == is_frozen, name
        if is_projection and name.startswith("backbone."):
            assert torch.linalg.matrix_rank(trained[name] - initial[name], rtol=1e-3) == 2, name
    val = rows(tmp_path / "run", "eval")[-1]  # measured with the unmerged model
    again = evaluate(Predictor(result.last), load_splits(config.data).val, eval_config=EvalConfig())
    assert again.loss == pytest.approx(val["val_loss"], rel=1e-5)


@pytest.mark.parametrize("tune", ["lora", "head"])
@pytest.mark.parametrize("place", [(1, 2), (3, 1)])
def test_a_resumed_run_equals_an_uninterrupted_one(videos, tmp_path, tune, place, monkeypatch):
    monkeypatch.setattr(frame_cache, "MAX_VIEWS", 4)  # so that epochs use views again
    config = make_config(videos, model=DROP | {"dropout": 0.3}, tune=tune, epochs=6, ema_decay=0.5)
    with pytest.raises(KeyboardInterrupt):
        fit(
            replace(config, train=replace(config.train, save_minutes=0)),
            tmp_path / "stopped",
            on_progress=stop_at(*place),
        )
    resumed = fit(config, tmp_path / "stopped", resume=True)
    whole = fit(config, tmp_path / "whole")
    assert same(weights(resumed.last), weights(whole.last))
    assert same(weights(resumed.best), weights(whole.best))
    assert resumed.metrics == whole.metrics
    assert [row["step"] for row in rows(tmp_path / "stopped", "eval")] == [3, 6, 9, 12, 15, 18]


def test_frame_vectors_equal_those_of_the_pixels(videos, tmp_path):
    """Each epoch's batches: the vectors of the clips that a training on pixels would draw in that epoch."""
    config = make_config(videos, model=DROP, tune="head", epochs=10)
    run = TrainingRun(config, tmp_path / "run", resume=False, on_progress=None)
    model, samples = run.raw_model.eval(), run.data.train
    for epoch in (0, 7, 9):
        run.dataset.set_epoch(epoch)
        plain = VideoDataset(samples=samples, clip_spec=model.clip_spec, augment=config.augment, seed=0)
        plain.set_epoch(epoch % frame_cache.MAX_VIEWS)
        seen = []
        for batch in run.loader:
            assert batch["pixels"].shape == (len(batch["indices"]), FRAMES, 16)
            for frames, label, index in zip(batch["pixels"], batch["labels"], batch["indices"].tolist(), strict=True):
                clip = normalize(plain[index].pixels[None], model.clip_spec)
                expected = model.forward_features(clip).frames[0]
                torch.testing.assert_close(frames, expected, rtol=1e-5, atol=1e-5)
                assert label == samples[index].label
                seen.append(index)
        assert sorted(seen) == list(range(12))
    run.close()


def test_the_backbone_runs_once_per_view(videos, tmp_path, monkeypatch):
    clips = []
    embed = XViT.embed_frames
    monkeypatch.setattr(XViT, "embed_frames", lambda model, x: (clips.append(len(x)), embed(model, x))[1])
    fit(make_config(videos, tune="head", epochs=10), tmp_path / "run")
    assert sum(clips) == 1 + 8 * 12 + 6  # one by `check_recipe`
    fit(make_config(videos, tune="head", epochs=2), tmp_path / "short")
    assert sum(clips) == 1 + 8 * 12 + 6 + 1 + 2 * 12 + 6
    names = {path.name for path in (tmp_path / "run" / "frames").iterdir()}
    assert names == {f"train-{view}.safetensors" for view in range(8)} | {"val-0.safetensors"}


@pytest.mark.parametrize("change", ["weights", "seed", "augment", "videos"])
def test_frame_vectors_of_something_else_are_not_used(videos, tmp_path, change):
    config = make_config(videos, tune="head", epochs=1)
    data = load_splits(config.data)
    cache = frame_cache.FrameCache(tmp_path / "frames", train=data.train, val=data.val)
    fit(config, tmp_path / "first", data=data, frames=cache)
    path = tmp_path / "frames" / "train-0.safetensors"
    before, key = read_frames(path)
    if change == "weights":
        other = with_metadata(make_model(), list(CLASSES))
        with torch.no_grad():
            other.backbone.pos_embed += 0.1
        other.save_pretrained(tmp_path / "other")
        config = replace(config, init=InitConfig(checkpoint_path=str(tmp_path / "other")))
    elif change == "seed":
        config = replace(config, train=replace(config.train, seed=1))
    elif change == "augment":
        config = replace(config, augment=replace(config.augment, scale_jitter=(1.5, 2.0)))
    else:
        video = write_video(tmp_path / "new.mp4", color=0, seed=99)
        first = replace(data.train[0], path=str(video))
        data = replace(data, train=[first, *data.train[1:]])
        cache = frame_cache.FrameCache(tmp_path / "frames", train=data.train, val=data.val)
    fit(config, tmp_path / "second", data=data, frames=cache)
    after, other_key = read_frames(path)
    assert key != other_key
    assert not torch.equal(before, after)


def read_frames(path):
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("frames").clone(), file.metadata()["xvit"][:40]


def test_a_damaged_file_of_frame_vectors_is_written_again(videos, tmp_path):
    config, data = make_config(videos, tune="head", epochs=1), load_splits(make_config(videos).data)
    frames = []
    for name in ("first", "second"):
        cache = frame_cache.FrameCache(tmp_path / "frames", train=data.train, val=data.val)
        fit(config, tmp_path / name, data=data, frames=cache)
        frames.append(read_frames(tmp_path / "frames" / "train-0.safetensors")[0])
        path = tmp_path / "frames" / "train-0.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(*frames)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_frame_vectors_are_mapped_into_memory(videos, tmp_path):
    config, data = make_config(videos, tune="head", epochs=2), load_splits(make_config(videos).data)
    cache = frame_cache.FrameCache(tmp_path / "frames", train=data.train, val=data.val)
    fit(config, tmp_path / "run", data=data, frames=cache)
    maps = Path("/proc/self/maps").read_text()
    for name in ("train-0", "train-1", "val-0"):
        assert str(tmp_path / "frames" / f"{name}.safetensors") in maps


def test_unreadable_videos_are_left_out_and_listed(videos, tmp_path):
    config = make_config(videos, tune="head", epochs=5)
    data = load_splits(config.data)
    for split in ("train", "val"):
        (tmp_path / f"{split}.mp4").write_bytes(b"no video")
    bad = {split: [replace(getattr(data, split)[1], path=str(tmp_path / f"{split}.mp4"))] for split in ("train", "val")}
    data = replace(data, train=data.train + bad["train"], val=data.val + bad["val"])
    result = fit(config, tmp_path / "run", data=data)
    assert result.bad_videos == 2
    assert rows(tmp_path / "run", "eval")[-1]["videos"] == 6


def test_the_umask_decides_who_reads_the_frame_vectors(videos, tmp_path):
    fit(make_config(videos, tune="head", epochs=1), tmp_path / "run")
    modes = {
        path.stat().st_mode for path in [*(tmp_path / "run" / "frames").iterdir(), tmp_path / "run" / "config.yaml"]
    }
    assert len(modes) == 1


def test_a_stop_while_frame_vectors_are_computed(videos, tmp_path):
    def stop(event):
        if event.stage == "frames" and event.epoch == 2:
            raise Interrupted(exit_code=130)

    config = make_config(videos, tune="head", epochs=5)
    with pytest.raises(KeyboardInterrupt, match=r"state saved in .*; continue with --resume"):
        fit(config, tmp_path / "run", on_progress=stop)
    assert (tmp_path / "run" / "frames" / "train-0.safetensors").exists()
    resumed, whole = fit(config, tmp_path / "run", resume=True), fit(config, tmp_path / "whole")
    assert same(weights(resumed.last), weights(whole.last))


@pytest.mark.parametrize("tune", ["full", "head"])
def test_training_without_validation_videos(videos, tmp_path, tune):
    config = make_config(videos, tune=tune)
    data = load_splits(config.data)
    result = fit(config, tmp_path / "run", data=replace(data, train=data.train + data.val, val=[]))
    assert result.metrics == {}
    assert not result.best.exists()
    assert XViT.from_pretrained(result.last).provenance["data"]["train"] == 18


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_mixed_clips_are_refused_for_the_head(videos, tmp_path, settings):
    with pytest.raises(XViTError, match=r"augment\.(mixup|cutmix)=.*: set augment\.(mixup|cutmix)=0"):
        fit(make_config(videos, tune="head", **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_lora_layers_are_added_to_each_attention_layer(videos, tmp_path):
    run = TrainingRun(make_config(videos, tune="lora", lora_rank=4), tmp_path / "run", resume=False, on_progress=None)
    layers = [layer for layer in run.raw_model.modules() if isinstance(layer, LoRALinear)]
    assert [tuple(layer.lora_a.shape) for layer in layers] == [(4, 16)] * 4
    optimised = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert all(id(layer.lora_b) in optimised and id(layer.weight) not in optimised for layer in layers)
    assert isinstance(run.raw_model.backbone.blocks[0].mlp.fc1, nn.Linear)
    run.close()


@pytest.mark.parametrize("tune", ["head", "lora"])
def test_averaged_weights_are_those_of_timm(videos, tmp_path, tune):
    run = TrainingRun(make_config(videos, tune=tune, ema_decay=0.9), tmp_path / "run", resume=False, on_progress=None)
    expected = ModelEmaV3(run.raw_model, decay=0.9, use_warmup=True)
    for step in (1, 2, 3):
        with torch.no_grad():
            for parameter in run.raw_model.parameters():
                if parameter.requires_grad:
                    parameter += step
        run.ema_model.update(run.raw_model, step=step)
        expected.update(run.raw_model, step=step)
    assert same(run.ema_model.module.state_dict(), expected.module.state_dict())
    run.close()
