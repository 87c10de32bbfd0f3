"""No command opens a connection of its own, or writes an identifier of the device."""

import json
import os
import subprocess
import sys

from helpers.color_videos import write_videos
from helpers.exports import SMALLEST, make_original
from xvit.export import export_model

SCRIPT = """
import json, socket, sys

opened = []

def record(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        if getattr(arguments[0], "family", None) != socket.AF_UNIX:
            opened.append([event, str(arguments[1:])])

sys.addaudithook(record)
from xvit.cli.main import main
print(json.dumps({"codes": [main(words) for words in json.loads(sys.argv[1])], "opened": opened}))
"""


def test_no_command_opens_a_connection(recipe, tmp_path):
    videos, checkpoint = write_videos(tmp_path / "videos"), tmp_path / "best"
    make_original(**SMALLEST, attention="spatial").save_pretrained(checkpoint)
    export_model(make_original(), tmp_path / "onnx", videos=[str(videos)], num_clips=1)
    data = ["--data.root", videos, "--data.num_workers", 0]
    commands = [
        ["info", "--checkpoint", checkpoint],
        ["train", "--config", recipe, *data, "--output", tmp_path / "run"],
        ["eval", "--checkpoint", checkpoint, *data],
        ["features", videos / "val", "--checkpoint", checkpoint, "--output", tmp_path / "f.npy", "--num-workers", 0],
        # as for ONNX, and then to OpenVINO
        ["export", checkpoint, "--format", "openvino", "--output", tmp_path / "openvino", "--videos", videos / "val"],
    ]
    for model in (checkpoint, tmp_path / "onnx", tmp_path / "openvino"):
        commands.append(["predict", videos / "val", "--checkpoint", model, "--num-workers", 0])
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and not name.startswith("XDG")}
    words = json.dumps([list(map(str, command)) for command in commands])
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, words], env=kept | {"HOME": str(home)}, capture_output=True, text=True
    )
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed == {"codes": [0] * len(commands), "opened": []}, result.stderr
    written = [str(path.relative_to(home)).lower() for path in home.rglob("*")]
    assert not [path for path in written if any(name in path for name in ("microsoft", "intel", "device", "telemetry"))]
