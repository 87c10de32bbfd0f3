"""Places in which the commands must run: without shared memory or a writable home folder, with any umask."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.files import file_modes, umask
from helpers.warm_processes import WarmProcess

# Runs commands in a mount namespace of its own, with another /dev/shm.
COMMANDS = """
import ctypes, json, subprocess, sys
from xvit.cli.main import main

NEW_NAMESPACE = 0x20000  # CLONE_NEWNS
if ctypes.CDLL(None).unshare(NEW_NAMESPACE):
    sys.exit("no new mount namespace")
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", sys.argv[1], "tmpfs", "/dev/shm"], check=True)
codes = [main(words) for words in json.loads(sys.argv[2])]
print(json.dumps(codes), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def words(videos, checkpoint, recipe):
    """A function that returns the words of commands that write to a folder."""

    def words(output: Path, num_workers: int) -> list[list[str]]:
        one = str(next(videos.glob("val/*/*.mp4")))
        options = ["--checkpoint", str(checkpoint)]
        workers = ["--num-workers", str(num_workers)]
        data = ["--data.root", str(videos), "--data.num_workers", str(num_workers)]
        return [
            ["predict", one, *options, "--json"],
            ["predict", str(videos / "val"), *options, *workers, "--json"],
            ["features", str(videos / "val"), *options, *workers, "--output", str(output / "features.npy")],
            ["eval", *options, *data, "--output", str(output / "result")],
            ["train", "--config", str(recipe), *data, "--train.epochs", "1", "--output", str(output / "run")],
            ["timeline", one, *options, "--stride", "1", "--output", str(output / "timeline")],
        ]

    return words


def _can_hide_shared_memory() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=4k,ro", "tmpfs", "/dev/shm"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_hide_shared_memory(), reason="needs the right to mount file systems")
@pytest.mark.parametrize("mount", ["size=4k,ro", "size=4k"])
def test_without_usable_shared_memory(words, tmp_path, mount):
    code, _, err = WarmProcess("-c", COMMANDS, mount, json.dumps(words(tmp_path, num_workers=2))).wait()
    assert code == 0, err
    assert "Traceback" not in err
    *lines, codes = err.splitlines()
    assert json.loads(codes) == [0] * 6, err
    assert sum("passed through pipes" in line for line in lines) >= 3  # predict, features, eval; said once by each


def test_the_umask_decides_the_modes_of_all_files(words, tmp_path, run, videos):
    """With an unusual umask, which gives neither 0600 nor 0644: modes that libraries choose."""
    commands = words(tmp_path, num_workers=0)[2:]
    data, resized = ["--data.root", videos, "--output", tmp_path / "report"], ["--output", tmp_path / "small"]
    commands.append(["data", "check", *data, "--data.num_workers", "0"])
    commands.append(["data", "resize", videos / "val", *resized, "--short-side", "32", "--num-workers", "0"])
    with umask(0o027):
        for command in commands:
            assert run(*command)[0] == 0, command
    modes = file_modes(tmp_path)
    assert len(modes) > 30
    assert modes == {name: 0o750 if (tmp_path / name).is_dir() else 0o640 for name in modes}


# In a process of its own: libraries look for their folders when they are imported.
HOMELESS = """
import json, sys
from xvit.cli.main import main

print([main(words) for words in json.loads(sys.argv[1])], "matplotlib" in sys.modules)
"""


def test_without_writable_folders_for_caches_and_temporary_files(words, tmp_path, videos):
    """Not even the superuser can create a folder below a file."""
    (tmp_path / "file").touch()
    variables = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME")
    env = os.environ | dict.fromkeys(variables, str(tmp_path / "file" / "folder"))
    check = ["data", "check", "--data.root", str(videos), "--data.num_workers", "0"]
    check += ["--output", str(tmp_path / "report")]
    commands = json.dumps([check, words(tmp_path, num_workers=0)[5]])
    completed = subprocess.run([sys.executable, "-c", HOMELESS, commands], env=env, capture_output=True, text=True)
    assert completed.stderr == ""
    assert completed.stdout.splitlines()[-1] == "[0, 0] True"
