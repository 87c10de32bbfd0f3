"""The documentation site: it builds without a warning or a network, shows every public name, and can be used."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

import xvit
from helpers.browser import TIMEOUT, serious_findings
from xvit.cli import predict
from xvit.cli.main import COMMANDS
from xvit.cli.parsing import make_parser
from xvit.config import RunConfig, flatten, to_dict

ROOT = Path(__file__).parents[1]
PACKAGES = ["batch", "checkpoint", "config", "evaluation", "export", "features", "inference", "serving", "timeline"]
PACKAGES += ["training", "transformers", "visualize"]
# Of their names, those for the inside of xvit: they are not on the site.
INSIDE = {
    "xvit.checkpoint": {"CARD", "CONFIG", "EXPORTED", "WEIGHTS"},
    "xvit.config": {
        *(
            "ATTENTION_SCHEMES",
            "SINGLE_TASK",
            "AttentionScheme",
            "ClassNames",
            "as_task_dict",
            "describe_change",
            "energies",
        ),
        *("flatten", "merge", "read_yaml", "stored_clip_spec", "stored_recipe", "unflatten", "unwrap_single_task"),
    },
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built site; a warning fails the build."""
    source = tmp_path_factory.mktemp("site") / "docs"
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("_build", "api", "cli", "examples"))
    shutil.copytree(ROOT / "examples", source.parent / "examples")
    command = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going", "-b", "html", source, "html"]
    environment = os.environ | {"PYTHONPATH": str(Path(xvit.__file__).parents[1])}
    done = subprocess.run(command, cwd=source.parent, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return source.parent / "html"


def test_every_public_name_is_on_the_site(site):
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    shown = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    for package in ("xvit", *(f"xvit.{name}" for name in PACKAGES)):
        public = set(import_module(package).__all__) - {"__version__"} - INSIDE.get(package, set())
        missing = {name for name in public if not {f"{package}.{name}", f"xvit.{name}"} & shown}
        assert not missing, package


def test_every_command_has_a_page_and_no_page_loads_from_elsewhere(site):
    for command in COMMANDS:
        assert (site / "reference" / "cli" / f"{command.replace(' ', '_')}.html").is_file()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for attribute in ('src="http', 'rel="stylesheet" href="http', 'src="//'):
            assert attribute not in text, page


def test_pages_from_the_code_show_every_setting_and_option(site):
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for name in flatten(to_dict(RunConfig())):
        assert f">{name}<" in settings, name
    page = (site / "reference" / "cli" / "predict.html").read_text(encoding="utf-8")
    parser = make_parser("predict", predict)
    names = {name for action in parser._actions for name in action.option_strings} - {"-h", "--help"}
    assert "--top-k" in names
    for name in names:
        assert f">{name}<" in page, name
    assert "Default: <code" in page


def test_every_measured_table_is_shown_with_its_origin(site):
    tables = json.loads((ROOT / "docs" / "results" / "measured.json").read_text(encoding="utf-8"))
    page = (site / "results" / "tables.html").read_text(encoding="utf-8")
    for table in tables.values():
        assert all(table[key] for key in ("command", "machine", "date"))
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert page.count("Measured by") == len(tables)
    assert page.count("<tr ") == sum(1 + len(table["rows"]) for table in tables.values())


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """A window that notes the hosts that it asks."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    page, hosts = context.new_page(), set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    yield page
    context.close()
    assert hosts <= {""}  # files only


@pytest.mark.parametrize(
    "name", ["index", "start/quickstart", "tutorials/own_clips", "how/mixing", "reference/api/xvit.Stream"]
)
def test_pages_are_accessible(site, page, name):
    page.goto((site / f"{name}.html").as_uri())
    assert serious_findings(page) == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("webcam", "tutorials/camera.html"),
        ("resume", "guides/training.html"),
        ("ONNX", "guides/export.html"),
        ("Something-Something", "tutorials/authors_checkpoint.html"),
        ("out of memory", "start/troubleshooting.html"),
    ],
)
def test_the_search_finds(site, page, words, found):
    page.goto(f"{(site / 'search.html').as_uri()}?q={words}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_selector(f"#search-results a[href*='{found}']")
