"""The directive `measured`: a table of docs/results/measured.json, and below it how it was measured.

    ```{measured} stream-cost
    ```

A table has `columns` and `rows`, the `command` that made it, the `machine` and the `date`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Measured(SphinxDirective):
    """See the module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "results" / "measured.json"
        self.env.note_dependency(str(path))
        tables = json.loads(path.read_text(encoding="utf-8"))
        [name] = self.arguments
        if name not in tables:
            raise self.error(f"{path.name} has no table {name}; it has {', '.join(tables)}")
        return self.parse_text_to_nodes(to_markdown(tables[name]))


def to_markdown(table: dict[str, Any]) -> str:
    """The table, and below it its command, machine and date."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    rows = [line(table["columns"]), "|---" * len(table["columns"]) + "|", *map(line, table["rows"])]
    source = f"*Measured by* `{table['command']}` *on {table['machine']}, {table['date']}.*"
    return "\n".join([*rows, "", source])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
