"""The directive `measured`: a table of measured numbers out of a JSON file, with how it was measured.

    ```{measured} finetune.json folds
    ```

shows the table `folds` of docs/results/finetune.json. A table has `columns` and `rows` (text, or numbers), the `command`
that made it, the `machine` and the `date`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Measured(SphinxDirective):
    """See the module."""

    required_arguments = 2
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        file, name = self.arguments
        path = Path(self.env.srcdir) / "results" / file
        self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(to_markdown(json.loads(path.read_text(encoding="utf-8"))[name]))


def to_markdown(table: dict[str, Any]) -> str:
    """The table, and below it its command, machine and date."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    source = ", ".join(filter(None, [f"`{table['command']}`", table["machine"], table["date"]]))
    rows = [line(table["columns"]), "|---" * len(table["columns"]) + "|", *map(line, table["rows"])]
    return "\n".join([*rows, "", f"*Measured: {source}.*"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
