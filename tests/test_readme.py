"""What the README shows runs as it is written."""

import re
import shlex
from pathlib import Path

import pytest

from xvit.cli.main import find_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_the_python_example_runs(tmp_path, checkpoint, videos, monkeypatch, capsys):
    [example] = blocks("python")
    demo = tmp_path / "demo"
    (demo / "xvit").mkdir(parents=True)
    (demo / "xvit" / "best").symlink_to(checkpoint)
    (demo / "videos").symlink_to(videos)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    shapes = re.findall(r"\((2, [\d, ]+)\)$", example, flags=re.MULTILINE)
    assert len(shapes) == 2
    for shape in shapes:
        assert f"torch.Size([{shape}])" in out
    assert "demo/videos/val/moving_left/0000.mp4" in out


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("xvit ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, module, rest = find_command(shlex.split(line, comments=True)[1:])
    module.parse(rest)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert named >= {"demo", "test", "lint", "bench"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_and_pictures_are_there_and_small():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 4
    for link in links:
        assert (ROOT / link).is_file(), link
        assert not link.endswith(".png") or (ROOT / link).stat().st_size < 300_000, link
    for room in re.findall(r"^\| `xvit\.(\w+)`", README, flags=re.MULTILINE):
        package = ROOT / "src" / "xvit" / room
        assert package.is_dir() or package.with_suffix(".py").is_file(), room
