"""`xvit data pack`, and what the other commands do with shards."""

import json
from pathlib import Path

import pytest

from xvit.cli.main import main
from xvit.data.shards import index_path, read_shard
from xvit.features.storage import read_features

BAD, EMPTY = "val/moving_left/bad.mp4", "val/moving_left/empty.mp4"
SIZE = ["--shard-size", "0.1"]


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory):
    """The motion data set in shards, with a damaged video. Read-only."""
    folder = tmp_path_factory.mktemp("packed")
    root = folder / "videos"
    for path in videos.rglob("*.mp4"):
        (root / path.relative_to(videos)).parent.mkdir(parents=True, exist_ok=True)
        (root / path.relative_to(videos)).write_bytes(path.read_bytes())
    (root / BAD).write_text("no video")
    (root / EMPTY).touch()
    assert main(["data", "pack", "--data.root", str(root), "--output", str(folder / "shards"), *SIZE]) == 1
    return folder / "shards"


def settings(shards):
    return ["--data.root", shards, "--data.format", "webdataset", "--data.num_workers", "0"]


def test_packing(shards, run, cli_error, tmp_path):
    root, folder = shards.parent / "videos", tmp_path / "out"
    code, out, err = run("data", "pack", "--data.root", root, "--output", folder, *SIZE)
    assert code == 1
    assert " videos (0." in out
    assert f"written to {folder}" in out
    assert f"{EMPTY}: the file is empty (0 bytes)" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }
    code, out, _ = run("data", "pack", "--data.root", root, "--output", folder, *SIZE, "--json")
    result = json.loads(out)
    assert (code, result["written"], result["skipped"]) == (1, 0, sum(result["shards"].values()))
    assert result["videos"] == sum(len(read_shard(path)) for path in folder.glob("*.tar"))
    assert all(index_path(path).exists() for path in folder.glob("*.tar"))
    message = cli_error("data", "pack", "--data.root", root, "--output", folder)
    assert "has shards of other videos or another size" in message
    help_text = run("data", "pack", "--help")[1]
    assert "--shard-size MB" in help_text
    assert "--data.format webdataset" in help_text


def test_check_names_shard_and_member(shards, run, tmp_path):
    code, out, _ = run("data", "check", *settings(shards), "--output", tmp_path / "report", "--json")
    report = json.loads(out)
    assert code == 1
    [problem] = report["problems"]
    assert problem["path"].endswith(f".tar/{BAD}")
    assert Path(problem["path"].partition(".tar/")[0] + ".tar").is_file()
    assert (tmp_path / "report/report.html").exists()
    names = (tmp_path / "report/train.txt").read_text().splitlines()
    assert all(line.startswith("train-0") and ".tar/train/" in line for line in names)


def test_eval_predict_and_features(shards, checkpoint, run, tmp_path):
    folder = shards
    code, out, _ = run("eval", "--checkpoint", checkpoint, *settings(folder), "--json")
    assert code == 1
    result = json.loads(out)
    assert result["expected"] == result["videos"] + 1
    _, out, _ = run("eval", "--checkpoint", checkpoint, "--data.root", folder.parent / "videos", "--json")
    plain = json.loads(out)
    assert (plain["top1"], plain["videos"]) == (result["top1"], result["videos"])
    shard = next(iter(sorted(folder.glob("train-*.tar"))))
    code, out, _ = run("predict", shard, "--checkpoint", checkpoint, "--json", "--num-workers", "0")
    paths = [prediction["path"] for prediction in json.loads(out)["predictions"]]
    assert (code, paths) == (0, [member.path for member in read_shard(shard).values()])
    code, out, _ = run("predict", paths[0], "--checkpoint", checkpoint, "--json")
    assert (code, json.loads(out)["predictions"][0]["path"]) == (0, paths[0])
    words = ["features", shard, "--checkpoint", checkpoint, "--output", tmp_path / "x.npy", "--num-workers", "0"]
    assert run(*words)[0] == 0
    features = read_features(tmp_path / "x.npy")
    assert list(features.labels) == [Path(path).parent.name for path in paths]


def test_training(shards, recipe, run, tmp_path):
    words = ["train", "--config", recipe, *settings(shards), "--output", tmp_path / "run"]
    words += ["--data.val", "val-{000000..000000}.tar", "--data.train", "train-*.tar"]
    code, out, _ = run(*words, "--train.epochs", "1", "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["videos"] > 0


def test_mistakes(shards, cli_error, checkpoint, tmp_path):
    folder = shards
    words = ["eval", "--checkpoint", checkpoint, "--data.format", "webdataset", "--data.root"]
    assert "no shards of these names" in cli_error(*words, tmp_path)
    assert "data.val='none-*.tar': no shard none-*.tar (.tar)" in cli_error(*words, folder, "--data.val", "none-*.tar")
    (tmp_path / "val-0.tar").write_bytes(b"no tar" * 1000)
    assert cli_error(*words, tmp_path).startswith(f"{tmp_path}/val-0.tar: not a tar file")
    message = cli_error("predict", tmp_path / "val-0.tar/1.mp4", "--checkpoint", checkpoint)
    assert message.startswith(f"{tmp_path}/val-0.tar/1.mp4: {tmp_path}/val-0.tar: not a tar file")
    message = cli_error("predict", tmp_path / "val-0.tar", "--checkpoint", checkpoint)
    assert message.startswith(f"{tmp_path}/val-0.tar: not a tar file")
    message = cli_error(
        "data", "pack", "--data.root", tmp_path, "--data.format", "webdataset", "--output", tmp_path / "x"
    )
    assert "not a tar file" in message
    assert not (tmp_path / "x").exists()
