"""Places in which the commands must run: without shared memory, with any umask."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = """
import json, sys
from xvit.cli.main import main

codes = [main(words) for words in json.loads(sys.argv[1])]
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
    script = f'mount -t tmpfs -o {mount} tmpfs /dev/shm && exec "$0" -c "$1" "$2"'
    python = [sys.executable, COMMANDS, json.dumps(words(tmp_path, num_workers=2))]
    completed = subprocess.run(["unshare", "-m", "bash", "-c", script, *python], capture_output=True, text=True)
    assert "Traceback" not in completed.stderr
    *lines, codes = completed.stderr.splitlines()
    assert json.loads(codes) == [0] * 6, completed.stderr
    assert sum("passed through pipes" in line for line in lines) >= 3  # predict, features, eval; said once by each


def test_the_umask_decides_the_modes_of_all_files(words, tmp_path, run, checkpoint, videos):
    """With an unusual umask, which gives neither 0600 nor 0644: modes that libraries choose."""
    umask = 0o027
    before = os.umask(umask)
    try:
        commands = words(tmp_path, num_workers=0)[2:]
        export = ["export", str(checkpoint), "--videos", str(videos / "val"), "--clips", "2"]
        commands.append([*export, "--output", str(tmp_path / "onnx")])
        commands.append(["data", "check", "--data.root", str(videos), "--output", str(tmp_path / "report")])
        commands.append(
            ["data", "resize", str(videos / "val"), "--output", str(tmp_path / "small"), "--short-side", "32"]
        )
        for command in commands:
            assert run(*command)[0] == 0, command
    finally:
        os.umask(before)
    paths = [path for path in tmp_path.rglob("*") if not path.is_symlink()]
    assert len(paths) > 30
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in paths}
    expected = {name: (0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask for name in modes}
    assert modes == expected
