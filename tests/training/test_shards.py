"""Training and evaluation on shards: exact resume within an epoch, the same result and counts in two processes."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from helpers.color_videos import make_config, write_videos
from helpers.training_runs import rows, same, stop_at, weights
from helpers.warm_processes import run_two
from xvit.config import to_dict
from xvit.data.annotations import load_splits
from xvit.data.shards import read_shard
from xvit.data.tools.pack import pack_splits
from xvit.training import fit

BAD = "train/green/0.mp4"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """11 training videos, one of which is unreadable, and 6 of validation, in several shards."""
    folder = tmp_path_factory.mktemp("shards")
    videos = write_videos(folder / "videos", train=4, val=2)
    (videos / BAD).write_bytes(b"no video" * 500)
    config = make_config(videos)
    pack_splits(load_splits(config.data), folder / "shards", shard_size=12_000)
    assert len(list((folder / "shards").glob("train-*.tar"))) > 2
    return folder / "shards"


def make_shard_config(shards, **options):
    config = make_config(shards, **options)
    return replace(config, data=replace(config.data, format="webdataset"))


def test_a_run_that_is_stopped_within_an_epoch_ends_bit_identical(shards, tmp_path):
    options = {"batch_size": 3, "mixup": 0.4, "ema_decay": 0.9}
    unstopped = fit(make_shard_config(shards, **options), tmp_path / "a")
    for epoch, step in ((1, 2), (2, 3)):
        config = make_shard_config(shards, save_minutes=0.0, **options)
        with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
            fit(config, tmp_path / "b", resume=True, on_progress=stop_at(epoch, step))
    resumed = fit(make_shard_config(shards, save_minutes=0.0, num_workers=1, **options), tmp_path / "b", resume=True)
    assert same(weights(resumed.last), weights(unstopped.last))
    runs = [[(row["step"], row["loss"]) for row in rows(run.last.parent, "train")] for run in (unstopped, resumed)]
    assert runs[0] == runs[1]
    assert unstopped.bad_videos == 1
    bad = [json.loads(line) for line in (tmp_path / "a/bad_videos.jsonl").read_text().splitlines()]
    paths = [member.path for path in shards.glob("train-*.tar") for member in read_shard(path).values()]
    assert [row["path"] for row in bad] == [path for path in paths if path.endswith(".tar/train/green/0.mp4")]


def test_two_processes_equal_one(shards, tmp_path):
    """Weights of a training with twice the batch size; an evaluation counts each video once."""
    config = make_shard_config(shards, batch_size=3, epochs=1, optimizer="sgd", lr=0.1)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(to_dict(config)))
    codes, _, err = run_two("train", "--config", tmp_path / "two.yaml", "--output", tmp_path / "two", "--json")
    assert codes == [1, 1], err  # a video is unreadable
    one = fit(replace(config, train=replace(config.train, batch_size=6)), tmp_path / "one")
    two = weights(tmp_path / "two/last")
    for name, weight in weights(one.last).items():
        torch.testing.assert_close(two[name], weight, atol=2e-5, rtol=1e-4)
    words = ["--checkpoint", one.last, "--data.root", shards, "--data.format", "webdataset"]
    words += ["--data.val", "train-*.tar", "--data.num_workers", "0", "--json"]
    codes, out, _ = run_two("eval", *words)
    assert codes == [1, 1]
    result = json.loads(out)
    assert (result["expected"], result["videos"]) == (12, 11)
    assert [failure[0] for failure in result["failures"]] == [BAD]
