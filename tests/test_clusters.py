"""The recipes of docs/guides/clusters.md: scripts run with Slurm's commands replaced, commands parse."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from xvit.cli.main import find_command
from xvit.cli.parsing import CommandParser, parse_command

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "guides" / "clusters.md").read_text(encoding="utf-8")
SLURM = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "42"}
COMMANDS = {
    "srun": "#!/bin/bash\nprintf '%s\\n' \"$@\"\n",
    "scontrol": '#!/bin/bash\n[ "$*" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n',
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def run_script(script: str, folder: Path) -> list[str]:
    """The words with which a script calls srun."""
    for name, text in COMMANDS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    words = ["bash", "-euc", script]
    env = {"PATH": f"{folder}:/usr/bin:/bin", **SLURM}
    return subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout.splitlines()


def check_parses(words: list[str], monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(CommandParser, "check_paths", lambda *_: None)
    parse_command(*find_command(words[words.index("xvit") + 1 :]))


def test_the_array_predicts_its_shard(tmp_path, monkeypatch):
    script = blocks("bash")[0]
    assert re.search(r"^#SBATCH --array=0-15$", script, flags=re.MULTILINE)
    words = run_script(script, tmp_path)
    assert words[:2] == ["xvit", "predict"]
    assert words[-2:] == ["--shard", "3/16"]
    check_parses(words, monkeypatch)


def test_all_nodes_train_one_run(tmp_path, monkeypatch):
    words = run_script(blocks("bash")[1], tmp_path)
    options = words[: words.index("-m")]
    assert options[options.index("--rdzv-endpoint") + 1] == "gpu07:29400"
    assert options[options.index("--nnodes") + 1] == "2"
    assert words[-1] == "--resume"
    check_parses(words, monkeypatch)


@pytest.mark.parametrize("kind", ["RayJob", "JobSet"])
def test_kubernetes_commands_parse(kind, monkeypatch):
    [job] = [job for job in map(yaml.safe_load, blocks("yaml")) if job["kind"] == kind]
    if kind == "RayJob":
        words = shlex.split(job["spec"]["entrypoint"])
        assert words[-4:] == ["--runner", "ray", "--address", "auto"]
    else:
        [hosts] = job["spec"]["replicatedJobs"]
        pods = hosts["template"]["spec"]
        words = pods["template"]["spec"]["containers"][0]["command"]
        first_pod = f"{job['metadata']['name']}-{hosts['name']}-0-0.{job['metadata']['name']}"
        assert f"--rdzv-endpoint={first_pod}:29400" in words
        assert f"--nnodes={pods['completions']}" in words
    check_parses(words, monkeypatch)
