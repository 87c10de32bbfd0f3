"""Run the code of a document from top to bottom, in a folder of stand-ins for the files that it names."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import unittest
from collections.abc import Callable
from pathlib import Path

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

Run = Callable[..., tuple[int, str, str]]  # of a command: exit code, standard output, standard error

# What is added to a command so that it takes seconds: the last value of an option counts.
QUICK = {
    "data motion": ["--clips-per-class", "4"],
    "train": ["--train.epochs", "1", "--train.warmup_epochs", "0", "--data.num_workers", "0"],
    "finetune": ["--minutes", "0.2", "--data.num_workers", "0"],
    "export": ["--clips", "6", "--min-agreement", "0", "--max-difference", "1000"],
    "features": ["--num-workers", "0"],
    "calibrate": ["--keep", "0.9"],
    "probe": ["--k", "3"],
}
# In place of an image model of 86 million parameters, and of its download.
SMALL_BACKBONE = ["--init.pretrained", "false", "--model.backbone", "vit_tiny_patch16_224", "--clip.image_size", "48"]
SMALL_BACKBONE += [
    "--model.backbone_kwargs",
    '{"img_size": 48, "patch_size": 24, "depth": 2, "embed_dim": 24, "num_heads": 2}',
]
SHELL = {"find", "cp", "mkdir", "ls", "python"}  # programs that a block may use besides xvit
# Commands that are only parsed, and why.
NOT_RUN = {
    r"(python -m venv|pip|\S+/pip) ": "installs packages",
    r"python (benchmarks|scripts)/": "measures for minutes; tests/benchmarks",
    r"(\w+=.* )?xvit serve ": "runs until it is stopped; tests/cli/test_serve.py",
    r"xvit (demo|ablate|benchmark)\b": "takes minutes; tests/experiments",
    r"xvit stream (\d+|-|rtsp://\S+) ": "needs a live source; tests/cli/test_stream.py",
    r"xvit .*\b(s3|gs|az|hf|https)://": "needs a store; tests/data/remote",
    r"xvit .*--runner ray": "starts a cluster; tests/batch",
    r"xvit .*--pretrained true": "downloads weights",
    r"torchrun --n(nodes|proc-per-node 8) ": "needs machines or GPUs; tests/training/test_processes.py",
    r"cat \S+ \| tar ": "unpacks a download",
    r"curl ": "needs the service; tests/serving/test_docs.py",
    r"hf ": "needs an account of the Hub",
    r"xvit eval .*--submission ": "needs a model of verbs and nouns; tests/evaluation",
    r"(node|export) |\w+=\(": "no command of xvit",
}


class DocumentRunner:
    """Runs the blocks of one document.

    Args:
        folder: the working directory; its files stand for those that the document names.
        run: runs a command of xvit.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        self.given = {path.name for path in folder.iterdir()}
        self.blocks = 0
        self.printed = ""  # by the last block
        self.commands: list[str] = []  # that were run
        self.not_run: dict[str, str] = {}  # commands, and why

    def __call__(self, path: Path) -> None:
        """Run all blocks; an error names the document and the line of the block."""
        blocks = {"python": self._run_python, "sh": self._run_shell, "output": self._compare_output}
        parsers = [SkipParser(), *(CodeBlockParser(language, run) for language, run in blocks.items())]
        for example in Sybil(parsers).parse(path).examples():
            try:
                example.evaluate()
            except unittest.SkipTest as reason:
                self.not_run[f"line {example.line}"] = str(reason)
            except BaseException as error:
                error.add_note(f"{path}:{example.line}")
                raise
            self.blocks += isinstance(example.parsed, str)  # not the directive that skips a block

    def _run_python(self, example: Example) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            PythonEvaluator()(example)
        self.printed = out.getvalue()

    def _compare_output(self, example: Example) -> None:
        """Every line shown was printed by the block before, up to numbers and the width of columns."""
        printed = without_numbers(self.printed)
        missing = [line for line in without_numbers(str(example.parsed)) if line not in printed]
        assert not missing, f"not printed: {missing}\nprinted: {printed}"

    def _run_shell(self, example: Example) -> None:
        self.printed = ""
        for line in command_lines(str(example.parsed)):
            if reason := reason_not_to_run(line):
                self.not_run[line] = reason
                continue
            words = shlex.split(line, comments=True)
            if words[0] == "torchrun":
                words = words[words.index("xvit") :]
            if words[0] == "xvit":
                self._run_xvit(words[1:])
            else:
                self._make_way(words)
                assert words[0] in SHELL, f"{line}: only {', '.join(sorted(SHELL))} and xvit are run"
                path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
                env = os.environ | {"PATH": path}
                subprocess.run(["bash", "-euo", "pipefail", "-c", line], check=True, timeout=600, env=env)
            self.commands.append(line)

    def _run_xvit(self, words: list[str]) -> None:
        words, target = _redirection(words)
        self._make_way(words)
        code, out, err = self.run(*words, *quick_options(words))
        assert code == 0, f"xvit {shlex.join(words)}\n{out}\n{err}"
        self.printed += out
        if target:
            Path(target).expanduser().write_text(out)

    def _make_way(self, words: list[str]) -> None:
        """Remove what stands for a file that the document now makes itself: no command overwrites its output."""
        output = {"finetune": "finetuned", "mkdir": words[-1]}.get(words[0], "")
        if "--output" in words:
            output = words[words.index("--output") + 1]
        if output in self.given and "--resume" not in words:
            self.given.remove(output)
            path = self.folder / output
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def command_lines(text: str) -> list[str]:
    """The commands of a shell block, without empty lines and comments; continued lines are joined."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def without_numbers(text: str) -> list[str]:
    """The lines of an output: each number is 0, as it depends on the processor and the number of clips."""
    lines = [" ".join(re.sub(r"\d[\d.,]*", "0", line).split()) for line in text.splitlines()]
    return [line for line in lines if line.strip("─ ")]


def reason_not_to_run(line: str) -> str:
    """Why a command is only parsed; empty if it is run."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, line + " ")), "")


def quick_options(words: list[str]) -> list[str]:
    """What to add to a command of xvit."""
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    options = list(QUICK.get(name, []))
    if name == "data motion" and "--concatenate" in words:
        options = ["--clips-per-video", "4"]
    if name == "train" and "--print-config" in words:
        options = []
    if name == "train" and {"finetune", "ssv2"} & set(words) and "--init.checkpoint_path" not in words:
        options += SMALL_BACKBONE
    if name == "finetune" and "--init" not in words:
        options += ["--init", "motion"]
    return options


def _redirection(words: list[str]) -> tuple[list[str], str]:
    """The words before a pipe or a redirection, and the file that the output goes to."""
    for sign in ("|", ">"):
        if sign in words:
            position = words.index(sign)
            return words[:position], words[position + 1] if sign == ">" else ""
    return words, ""


def copy_into(folder: Path, sources: dict[str, Path]) -> None:
    """Copy files and folders under these names."""
    for name, source in sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def document_paths(root: Path) -> list[Path]:
    """The README and the pages of the site that are written by hand."""
    written = (root / "docs" / "reference" / "cli", root / "docs" / "_build", root / "docs" / "examples")
    pages = [path for path in sorted((root / "docs").rglob("*.md")) if not any(map(path.is_relative_to, written))]
    return [root / "README.md", *pages]
