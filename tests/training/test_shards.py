"""Training and evaluation on shards: exact resume within an epoch, the same result and counts in two processes."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from helpers.color_videos import make_config, write_videos
from helpers.training_runs import same, stop_at, weights
from helpers.warm_processes import run_two
from xvit.config import to_dict
from xvit.data.annotations import load_splits
from xvit.data.shards import read_shard
from xvit.data.tools.pack import pack_splits
from xvit.training import fit

BAD = "train/green/0.mp4"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """12 training and 6 validation videos in several shards; and the same with an unreadable training video."""
    folder = tmp_path_factory.mktemp("shards")
    videos = write_videos(folder / "videos", train=4, val=2)
    for name in ("good", "bad"):
        pack_splits(load_splits(make_config(videos).data), folder / name, shard_size=12_000)
        (videos / BAD).write_bytes(b"no video" * 500)
    assert len(list((folder / "good").glob("train-*.tar"))) > 2
    return folder / "good", folder / "bad"


def make_shard_config(root, **options):
    config = make_config(root, **options)
    return replace(config, data=replace(config.data, format="webdataset"))


def test_a_run_that_is_stopped_within_an_epoch_ends_bit_identical(folders, tmp_path):
    """An unreadable video is named by its shard and member."""
    options = {"batch_size": 3, "mixup": 0.4, "ema_decay": 0.9}
    unstopped = fit(make_shard_config(folders[1], **options), tmp_path / "a")
    for epoch, step in ((1, 2), (2, 3)):
        config = make_shard_config(folders[1], save_minutes=0.0, **options)
        with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
            fit(config, tmp_path / "b", resume=True, on_progress=stop_at(epoch, step))
        steps = [int(path.name.partition("_")[2]) for path in (tmp_path / "b/state").iterdir()]
        assert max(steps) == 4 * (epoch - 1) + step - 1  # 4 steps are an epoch
    resumed = fit(make_shard_config(folders[1], num_workers=1, **options), tmp_path / "b", resume=True)
    assert same(weights(resumed.last), weights(unstopped.last))
    assert (resumed.metrics, resumed.bad_videos) == (unstopped.metrics, 1)
    [bad] = [json.loads(line) for line in (tmp_path / "a/bad_videos.jsonl").read_text().splitlines()]
    paths = [member.path for path in folders[1].glob("train-*.tar") for member in read_shard(path).values()]
    assert bad["path"] in paths
    assert bad["path"].endswith(f".tar/{BAD}")


def test_two_processes_equal_one(folders, tmp_path):
    """Weights of a training with twice the batch size; an evaluation counts each video once."""
    config = make_shard_config(folders[0], batch_size=2, epochs=1, optimizer="sgd", lr=0.1)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(to_dict(config)))
    codes, _, err = run_two("train", "--config", tmp_path / "two.yaml", "--output", tmp_path / "two", "--json")
    assert codes == [0, 0], err
    one = fit(replace(config, train=replace(config.train, batch_size=4)), tmp_path / "one")
    two = weights(tmp_path / "two/last")
    for name, weight in weights(one.last).items():
        torch.testing.assert_close(two[name], weight, atol=2e-5, rtol=1e-4)
    words = ["--checkpoint", one.last, "--data.root", folders[1], "--data.format", "webdataset"]
    codes, out, _ = run_two("eval", *words, "--data.val", "train-*.tar", "--data.num_workers", "0", "--json")
    assert codes == [1, 1]
    result = json.loads(out)
    assert (result["expected"], result["videos"]) == (12, 11)
    assert [failure[0] for failure in result["failures"]] == [BAD]
