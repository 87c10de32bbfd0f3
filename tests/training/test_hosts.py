"""Two processes in folders of their own, as on two hosts that share no storage."""

import pytest
import yaml

from helpers.color_videos import make_config, write_videos
from helpers.warm_processes import run_two
from xvit.config import to_dict

# In the folder of its rank; the host of the second process has another name.
SEPARATE = """
import os, socket, sys
from xvit.cli import main

main._LAUNCHER_SECONDS = 0
os.chdir(sys.argv[1 + int(os.environ["RANK"])])
if os.environ["RANK"] == "1":
    socket.gethostname = lambda: "host-b"
else:
    socket.gethostname = lambda: "host-a"
sys.exit(main.main(sys.argv[3:]))
"""


@pytest.fixture
def train(videos, tmp_path):
    """A function that trains in two folders; returns the error of both processes, and the folders."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(to_dict(make_config(videos, batch_size=3, epochs=1))))
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()

    def train(*options):
        codes, _, err = run_two("-c", SEPARATE, *folders, "train", "--config", path, *options)
        assert codes == [2, 2]
        errors = sorted(line for line in err.splitlines() if "error: " in line)
        message = errors[0].removeprefix("xvit: error: ")
        assert errors == [f"xvit: error: {message}", f"xvit: process 1: error: {message}"]  # both have it
        return message, folders

    return train


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_a_run_folder_that_one_host_sees_is_refused(train, exists, tmp_path):
    for name in "ab" * exists:
        (tmp_path / name / "run").mkdir()
    error, folders = train("--output", "run")
    assert error == (
        "run: the run folder of host host-a is not visible on host host-b; --output must be on storage that all hosts "
        "share"
    )
    assert [path.name for folder in folders for path in folder.rglob("*")] == ["run", "run"] * exists


def test_other_data_on_one_host_is_refused(train, tmp_path):
    write_videos(tmp_path / "a" / "videos", train=2, val=1)
    write_videos(tmp_path / "b" / "videos", train=1, val=1)
    error, _ = train("--output", tmp_path / "run", "--data.root", "videos")
    assert error == (
        "videos: host host-b found other videos, labels or classes than host host-a; all hosts need the same data"
    )
    assert not (tmp_path / "run").exists()
