"""Commands on videos at addresses: a bucket on this machine, with faults."""

import json
from collections import Counter
from itertools import count

import pyarrow.parquet as pq
import pytest

from helpers.color_videos import CLASSES, write_video
from helpers.tiny import TINY_RECIPE
from xvit.config import RunConfig, read_config
from xvit.data.annotations import load_splits


@pytest.fixture(scope="module")
def folder(s3_server, tmp_path_factory):
    """Six videos of three classes, which are in the bucket "colors" too."""
    folder = tmp_path_factory.mktemp("colors")
    names = [f"{name}/{number}.mp4" for name in CLASSES for number in range(2)]
    for number, name in enumerate(names):
        write_video(folder / name, color=number // 2, seed=number)
    s3_server.put("colors", {name: (folder / name).read_bytes() for name in names})
    return folder


@pytest.fixture
def listed(folder, tmp_path):
    """A list of the addresses with their labels, and one of what is relative to the bucket."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4"))
    labels = [CLASSES.index(name.split("/")[0]) for name in names]
    for name, prefix in (("addresses", "s3://colors/"), ("relative", "")):
        lines = [f"{prefix}{path} {label}\n" for path, label in zip(names, labels, strict=True)]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    return tmp_path


def test_predictions_are_those_of_the_files(run, s3, folder, listed, checkpoint):
    options = ["--checkpoint", checkpoint, "--json", "--num-workers", "2"]
    code, out, _ = run("predict", folder, *options)
    assert code == 0
    expected = {path["path"].removeprefix(f"{folder}/"): path["scores"] for path in json.loads(out)["predictions"]}
    numbers = count()
    s3.fault = lambda method, path: ["", "503", "", "reset" if method == "GET" else "", ""][next(numbers) % 5]
    words = [listed / "addresses.txt", "s3://colors/none.mp4", "--allow-remote", "s3"]
    code, out, err = run("predict", *words, *options)
    assert (code, "Traceback" in err) == (1, False)
    result = json.loads(out)
    assert result["failed"] == [{"path": "s3://colors/none.mp4", "reason": "not found (no such file, bucket or host)"}]
    found = {path["path"].removeprefix("s3://colors/"): path["scores"] for path in result["predictions"]}
    assert found == expected
    warnings = Counter(text for prediction in result["predictions"] for text in prediction["warnings"])
    retries = sum(int(text.split()[2]) * number for text, number in warnings.items() if text.startswith("downloaded"))
    assert 0 < retries <= s3.injected  # the missing one has retries, too


def test_a_large_job_has_rows_for_addresses(run, cli_error, s3, folder, checkpoint, tmp_path):
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4"))
    (tmp_path / "list.txt").write_text("".join(f"s3://colors/{path}\n" for path in [*paths, "none.mp4"]))
    words = ["predict", "--input", tmp_path / "list.txt", "--checkpoint", checkpoint, "--num-workers", 0]
    assert "not opened unless they are allowed" in cli_error(*words, "--output", tmp_path / "a")
    code, _, err = run(*words, "--allow-remote", "s3", "--output", tmp_path / "b")
    assert (code, "s3://colors/none.mp4: not found" in err) == (1, True)
    assert run(*words[:2], folder, *words[3:], "--output", tmp_path / "c")[0] == 0
    remote, local = (pq.read_table(tmp_path / name / "parts").to_pylist() for name in "bc")
    assert [row["path"] for row in remote] == [f"s3://colors/{path}" for path in [*paths, "none.mp4"]]
    assert [row["scores"] for row in remote[:-1]] == [row["scores"] for row in local]
    assert remote[-1]["status"] == "failed"
    words = ["data", "check", *words[1:3], "--data.num_workers", 0, "--num-frames", 2, "--data.allow_remote", "s3"]
    assert run(*words, "--output", tmp_path / "d")[0] == 1
    rows = pq.read_table(tmp_path / "d" / "parts").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * len(paths) + ["failed"]


def test_nothing_is_opened_without_leave(cli_error, s3, listed, checkpoint, tmp_path):
    options = ["--checkpoint", checkpoint]
    for words in (["s3://colors/a.mp4"], [listed / "addresses.txt"], ["hf://a/b/c.mp4", "--allow-remote", "s3"]):
        error = cli_error("predict", *words, *options)
        assert "not opened unless they are allowed: to allow it, give --allow-remote " in error
    assert "expected s3, gs" in cli_error("predict", "s3://colors/a.mp4", "--allow-remote", "ftp", *options)
    words = ["--data.root", ".", "--data.format", "list", "--data.val", listed / "addresses.txt"]
    assert "data.allow_remote: s3" in cli_error("data", "check", *words)
    assert "no such file or folder" in cli_error("timeline", "s3://colors/a.mp4", *options, "--output", tmp_path / "t")
    assert s3.log == []


def test_wrong_credentials_end_the_command(cli_error, s3, listed, checkpoint, monkeypatch):
    s3.denied = True
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "bad")
    words = ["predict", listed / "addresses.txt", "--allow-remote", "s3", "--checkpoint", checkpoint]
    error = cli_error(*words)
    assert error.startswith("s3://colors: the credentials are not accepted (InvalidAccessKeyId): set AWS_ACCESS_KEY_ID")
    assert cli_error(*words, "--num-workers", 0) == error


def test_features(run, s3, folder, listed, checkpoint):
    words = ["features", "--checkpoint", checkpoint, "--allow-remote", "s3://colors"]
    code, out, err = run(*words, listed / "addresses.txt", "--output", listed / "f.safetensors", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["shape"][0] == 6
    heads = Counter(path for method, path in s3.log if method == "HEAD")
    assert set(heads.values()) == {2}  # the size for the record, and the download
    code, _, err = run(*words, "s3://other/a.mp4", "--output", listed / "g.safetensors")
    assert code == 2
    assert "not opened unless they are allowed" in err


@pytest.mark.parametrize("kind", ["addresses", "relative"])
def test_a_data_set_in_a_bucket(run, s3, listed, kind):
    root = "s3://colors" if kind == "relative" else str(listed)
    data = ["--data.root", root, "--data.format", "list", "--data.train", listed / f"{kind}.txt"]
    output = listed / "report"
    data += ["--data.allow_remote", "s3", "--data.num_workers", 0]
    code, out, err = run("data", "check", *data, "--num-frames", 2, "--output", output)
    assert (code, err) == (0, ""), out
    lines = (output / "train.txt").read_text().splitlines()
    assert len(lines) == 6
    assert all(line.startswith("s3://colors/") for line in lines)


def test_training_on_a_bucket(run, s3, listed, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    data = {"root": "s3://colors", "format": "list", "allow_remote": ["s3"], "num_workers": 0}
    data |= {"train": str(listed / "relative.txt"), "val": str(listed / "relative.txt")}
    recipe.write_text(json.dumps(TINY_RECIPE | {"data": data}))
    splits = load_splits(read_config(RunConfig, recipe).data)
    assert splits.train[0].path.startswith("s3://colors/")
    code, _, err = run("train", "--config", recipe, "--output", tmp_path / "run")
    assert code == 0, err
    code, _, err = run("train", "--config", recipe, "--output", tmp_path / "run", "--resume")
    assert code == 0, err
