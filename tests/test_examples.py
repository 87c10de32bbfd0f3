"""The notebook runs; the scripts of the gallery run when the site is built (tests/test_site.py), the others in
tests/transformers and tests/export."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

EXAMPLES = Path(__file__).parents[1] / "examples"


def code_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_the_notebook_runs(capsys):
    plt.switch_backend("agg")
    exec(compile(code_of(EXAMPLES / "quickstart.ipynb"), "quickstart.ipynb", "exec"), {})
    assert capsys.readouterr().out.count("predicted as") == 5
    [number] = plt.get_fignums()
    assert len(plt.figure(number).axes) == 40
    plt.close("all")


def test_the_notebook_is_the_example_of_the_gallery():
    _, blocks = split_code_and_text_blocks(str(EXAMPLES / "plot_predictions.py"))
    expected = "\n".join(block.content.strip() for block in blocks if block.type == "code")
    assert code_of(EXAMPLES / "quickstart.ipynb").split() == expected.split()
