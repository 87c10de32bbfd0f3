"""A result that is finished, but cannot be written, is printed before the error."""

import errno
import json
import os

import pytest

COMMANDS = {
    "eval": ["--data.root", "{videos}", "--checkpoint", "{checkpoint}"],
    "eval --submission": ["--data.root", "{videos}", "--checkpoint", "{checkpoint}"],
    "data check": ["--data.root", "{videos}", "--data.num_workers", "0"],
    "timeline": ["{videos}/val/moving_left", "--checkpoint", "{checkpoint}", "--stride", "2"],
}


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_finished_result_is_printed(as_json, command, number, run, videos, checkpoint, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    name, _, option = command.partition(" --")
    words = [word.format(videos=videos, checkpoint=checkpoint) for word in COMMANDS[command]]
    output = [f"--{option}", tmp_path / "out.csv"] if option else ["--output", tmp_path / "out"]
    code, out, err = run(*name.split(), *words, *output, *(["--json"] if as_json else []))
    assert code == 2
    assert err.splitlines()[-1].startswith(f"xvit: error: {tmp_path}")
    assert err.splitlines()[-1].endswith(f": cannot be written: {os.strerror(number)}")
    assert "written to" not in out
    if as_json:
        assert json.loads(out).keys() & {"top1", "segments", "problems"}
    else:
        assert any(word in out for word in ("top-1", "sampled", "problems"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "Traceback" not in err
