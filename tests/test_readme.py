"""The README and the documents: commands parse, links and numbers are right. tests/test_documents.py runs them."""

import json
import re
import shlex
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml
from huggingface_hub import ModelCard

from helpers.documents import document_paths
from xvit.cli.main import find_command, overview
from xvit.cli.parsing import CommandParser, parse_command
from xvit.evaluation.metrics import wilson_interval
from xvit.utils.checkpoint_path import BUNDLED

ROOT = Path(__file__).parents[1]
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in document_paths(ROOT)}
README = DOCUMENTS["README.md"]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[str]:
    """The `xvit` commands in the shell blocks of a document, those under torchrun included."""
    lines = [line for block in code_blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"^torchrun .* -m xvit ", "xvit ", line) for line in lines if re.match("xvit |torchrun ", line)]


def split_command(line: str) -> list[str]:
    """The arguments after `xvit`, without a comment or a redirection."""
    words = shlex.split(line, comments=True)[1:]
    ends = [words.index(sign) for sign in (">", "|") if sign in words]
    return words[: min(ends)] if ends else words


def section(title: str) -> str:
    """A section of the README."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_python_example_runs(tmp_path, videos, monkeypatch, capsys):
    [example] = code_blocks(README, "python")
    (tmp_path / "samples").symlink_to(videos)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    shapes = re.findall(r"\((2, [\d, ]+)\)$", example, flags=re.MULTILINE)
    assert len(shapes) == 2
    for shape in shapes:
        assert f"torch.Size([{shape}])" in out
    assert "samples/val/moving_left/0000.mp4" in out


def test_the_first_result_is_the_one_shown(tmp_path, run, monkeypatch):
    """Up to the digits of the scores, which depend on the processor."""
    text = section("First result")
    data, predict, serve, demo = command_lines(text)
    [shown] = code_blocks(text, "output")
    monkeypatch.chdir(tmp_path)
    assert run(*split_command(data))[0] == 0
    code, out, _ = run(*split_command(predict))
    assert code == 0
    assert out.count(".mp4") == 4

    def without_digits(text: str) -> list[list[str]]:
        return [re.sub(r"\d+\.\d %", "%", line).split() for line in text.splitlines() if line.strip()]

    assert without_digits(out) == without_digits(shown)
    assert split_command(serve) == ["serve", "motion"]  # tests/cli/test_serve.py
    assert split_command(demo) == ["demo"]  # tests/experiments/test_demo.py


def test_the_bundled_model_is_as_accurate_as_stated():
    metrics = json.loads((BUNDLED / "motion" / "config.json").read_text())["provenance"]["metrics"]
    text = " ".join(section("First result").split())
    accuracy = f"{100 * metrics['top1']:.1f} % (95 % interval {metrics['interval_95']})"
    assert f"On {metrics['videos']:,} videos that it has never seen, it is right in {accuracy}." in text


@pytest.mark.parametrize("line", sorted({line for text in DOCUMENTS.values() for line in command_lines(text)}))
def test_commands_parse(line, monkeypatch):
    if overview(split_command(line)):
        return
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(CommandParser, "check_paths", lambda *_: None)  # the documents' videos and checkpoints
    command = find_command(split_command(line))
    if "--print-config" in line:
        with pytest.raises(SystemExit, match=r"^0$"):
            parse_command(*command)
    else:
        parse_command(*command)


def test_the_citation_has_what_its_format_requires():
    """`cffconvert --validate` checks the whole schema; it cannot be installed beside the other tools."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= paper.keys()
    assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])


def test_the_template_of_a_model_card_is_read_by_the_hub():
    """Its metadata are those of the card that a training writes, and more."""
    [text] = re.findall(r"^````markdown\n(.*?)^````$", DOCUMENTS["docs/guides/publish.md"], re.DOTALL | re.MULTILINE)
    template = ModelCard(text)
    [result] = template.data.eval_results
    assert (result.task_type, result.metric_type) == ("video-classification", "accuracy")
    written = ModelCard.load(BUNDLED / "motion" / "README.md").data.to_dict()
    assert written.items() <= template.data.to_dict().items()
    low, high = wilson_interval(110, 120)
    assert f"91.7 % on 120 test videos (95 % interval {100 * low:.1f} to {100 * high:.1f} %)" in text


def test_exit_codes_are_documented():
    rows = re.findall(r"^\| (\d+) \|", DOCUMENTS["docs/reference/output.md"], flags=re.MULTILINE)
    assert rows == ["0", "1", "2", "130", "143"]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert named >= {"demo", "docs", "test", "lint", "bench"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_pictures_are_small():
    pictures = [*(ROOT / "docs" / "images").rglob("*.png"), *(ROOT / "docs" / "results").rglob("*.png")]
    assert len(pictures) > 10
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_to_existing_files(name):
    """Those between the pages of the site are checked when it is built."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        file, _, anchor = link.partition("#")
        if "://" in file:
            continue
        target = path.parent / file if file else path
        assert target.is_file(), link
        titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in [title.lower().replace(" ", "-") for title in titles], link


def test_readme_is_short_and_has_links_and_pictures():
    assert len(README.splitlines()) < 120
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) > 4
    assert ".png" in README


def test_package_layout_is_complete():
    packages = {path.parent.name for path in (ROOT / "src" / "xvit").glob("*/__init__.py")}
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert packages == set(re.findall(r"^\| `xvit\.(\w+)`", contributing, flags=re.MULTILINE))


def test_results_are_those_of_the_documents():
    sources = DOCUMENTS["docs/results/ablation.md"] + DOCUMENTS["docs/results/benchmark/benchmark.md"]
    measured = {cell.strip() for line in sources.splitlines() if line.startswith("|") for cell in line.split("|")}
    measured |= {cell.split(" (")[0] for cell in measured}  # such as 63.4 (K400: 78.5)
    cells = [cell.strip() for line in section("Results").splitlines() for cell in line.split("|")[1:-1]]
    numbers = [cell for cell in cells if re.match(r"\d", cell)]
    assert len(numbers) > 20
    for number in numbers:
        assert number in measured, number


def test_the_ablation_tables_are_those_of_the_study():
    """Accuracies, rates and differences in the page are those in ablation.json."""
    study = json.loads((ROOT / "docs" / "results" / "ablation.json").read_text())
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in DOCUMENTS["docs/results/ablation.md"].splitlines()
    }
    for table in study["tables"].values():
        for row in table["rows"]:
            model = study["models"][row["model"]]
            top1 = f"{100 * mean(model['top1']):.1f} ± {100 * stdev(model['top1']):.1f}"
            end = (f"{model['macs'] / 1e6:.1f}", f"{model['lr']:g}")
            assert any(found[:2] == (row["name"], top1) and found[-2:] == end for found in rows), row
    for found in study["findings"]:
        points = f"{found['points']:+.1f} ± {found['margin']:.1f}"
        assert (found["higher"], found["lower"], f"{found['gap']:+.1f}", points, found["sign"]) in rows
    measured = json.loads((ROOT / "docs" / "results" / "measured.json").read_text())["ablation-three-epochs"]["rows"]
    names = {row["name"]: row["model"] for table in study["tables"].values() for row in table["rows"]}
    for name, one_epoch, _ in measured:
        assert one_epoch == f"{100 * study['models'][names.get(name, name)]['top1'][0]:.1f}"
    three = {name: top1 for name, _, top1 in measured}
    text = f"{three['spatial, temporal attention']} % after three epochs, {three['spatial (mean)']} % with the mean"
    assert text in " ".join(README.split())


def test_numbers_in_prose_are_those_of_the_cost_table():
    """In the table of the README, whose numbers are those of benchmark.md, the second column is for 8 frames."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section("Results").splitlines()]
    cost = {row[0]: float(row[2].split()[0]) for row in rows if row and "%" in row[-1]}
    xvit = cost["xvit mixing"]
    front, compare = (" ".join(DOCUMENTS[name].split()) for name in ("docs/index.md", "docs/compare.md"))
    assert f"costs {100 * (cost['xvit mixing alone'] - 1):.1f} % more time" in front
    assert f"costs {100 * (1 - xvit):.1f} % less" in front
    assert f"TimeSformer takes {cost['TimeSformer'] / xvit:.1f} times as long as xvit" in compare
    assert f"VideoMAE {cost['VideoMAE'] / xvit:.1f} times" in compare
    assert f": {cost['xvit mixing, tubelet 2'] / xvit:.1f} times" in compare
