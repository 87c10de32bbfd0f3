"""The models and tables of the ablation study: section 4 of the paper, the other attention schemes, fewer tokens.

The paper's figures are top-1 in % on Something-Something v2 with ViT-B/16 and 8 frames. The data set and the model size
differ here, so only the order of the rows can be compared.
"""

from dataclasses import dataclass

Options = dict[str, bool | int | float | str]

# Options that every row of the tables assumes, whatever the recipe sets.
BASE_OPTIONS: Options = {
    "attention": "mixing",
    "window": 1,
    "mix_ratio": 0.5,
    "mix_inputs": "keys_values",
    "mixing_layers": "all",
    "boundary_only": False,
    "segment_frames": 0,
    "summary_tokens": 0,
    "temporal_position": "input",
    "temporal_head": "attention",
    "temporal_layers": 1,
    "tubelet_size": 1,
    "tome_r": 0,
}
_MEAN: Options = {"temporal_head": "mean"}
# Each model's changes of BASE_OPTIONS. A model is trained once per seed, even if several tables contain it.
MODEL_OPTIONS: dict[str, Options] = {
    "spatial": {"attention": "spatial"},
    "mixing": {},
    "spatial, mean": {"attention": "spatial", **_MEAN},
    "mixing, mean": _MEAN,
    "w = 2, mean": {"window": 2, **_MEAN},
    "w = 2, boundary only, mean": {"window": 2, "boundary_only": True, **_MEAN},
    "mixed x": {"mix_inputs": "x"},
    "mixed keys": {"mix_inputs": "keys"},
    "mixed values": {"mix_inputs": "values"},
    "rho = 25 %": {"mix_ratio": 0.25},
    "rho = 100 %": {"mix_ratio": 1.0},
    "local": {"attention": "local"},
    "divided": {"attention": "divided"},
    "joint": {"attention": "joint"},
    "first half, mean": {"mixing_layers": "first_half", **_MEAN},
    "second half, mean": {"mixing_layers": "second_half", **_MEAN},
    "odd layers, mean": {"mixing_layers": "odd", **_MEAN},
    "2 temporal layers": {"temporal_layers": 2},
    "3 temporal layers": {"temporal_layers": 3},
    "summary, mean": {"summary_tokens": 1, **_MEAN},
    "summary": {"summary_tokens": 1},
    "tubelet 2": {"tubelet_size": 2},
    "merge 1": {"tome_r": 1},
    "tubelet 2, merge 1": {"tubelet_size": 2, "tome_r": 1},
}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: text of the first column.
        model: key in `MODEL_OPTIONS`.
        paper_top1: the paper's top-1 in % on Something-Something v2; None if the paper has no such row.
        paper_top1_k400: the paper's top-1 in % on Kinetics-400, where it has one.
    """

    name: str
    model: str
    paper_top1: float | None = None
    paper_top1_k400: float | None = None


@dataclass(frozen=True)
class Table:
    """One comparison: its title says what varies, and in parentheses what all rows share."""

    title: str
    rows: tuple[Row, ...]


def _table(title: str, *rows: Row) -> Table:
    return Table(title, rows)


TABLES: dict[str, Table] = {
    "window": _table(
        "Window (temporal mean)",
        Row("w = 0", "spatial, mean", 44.2),
        Row("w = 1", "mixing, mean", 61.6),
        Row("w = 2", "w = 2, mean", 59.7),
        Row("w = 2, boundary only", "w = 2, boundary only, mean", 59.6),
    ),
    "mix_inputs": _table(
        "Mixed inputs (temporal attention)",
        Row("nothing", "spatial", 55.6),
        Row("x", "mixed x", 62.1),
        Row("keys", "mixed keys", 62.1),
        Row("values", "mixed values", 61.5),
        Row("keys and values", "mixing", 63.4),
    ),
    "mix_ratio": _table(
        "Mix ratio (temporal attention)",
        Row("0 %", "spatial", 55.6),
        Row("25 %", "rho = 25 %", 63.3),
        Row("50 %", "mixing", 63.4),
        Row("100 %", "rho = 100 %", 60.7),
    ),
    "attention": _table(
        "Attention scheme (temporal attention)",
        Row("spatial", "spatial", 55.6),
        Row("mixing", "mixing", 63.4),
        Row("local", "local"),
        Row("divided", "divided"),
        Row("joint", "joint"),
    ),
    "mixing_layers": _table(
        "Mixing layers (temporal mean)",
        Row("first half", "first half, mean", 60.7),
        Row("second half", "second half, mean", 60.6),
        Row("odd layers", "odd layers, mean", 60.3),
        Row("all", "mixing, mean", 61.6),
    ),
    "temporal_layers": _table(
        "Number of temporal attention layers",
        Row("0 (mean)", "mixing, mean", 61.6),
        Row("1", "mixing", 63.4),
        Row("2", "2 temporal layers", 63.4),
        Row("3", "3 temporal layers", 63.4),
    ),
    "summary_tokens": _table(
        "Summary tokens and temporal attention (TA)",
        Row("neither", "mixing, mean", 61.6, 77.8),
        Row("summary", "summary, mean", 62.9, 78.7),
        Row("both", "summary", 62.5, 78.0),
        Row("TA", "mixing", 63.4, 78.5),
    ),
    "token_reduction": _table(
        "Fewer tokens (temporal attention)",
        Row("none", "mixing"),
        Row("tubelet = 2", "tubelet 2"),
        Row("tome_r = 1", "merge 1"),
        Row("both", "tubelet 2, merge 1"),
    ),
}

# The paper's findings: pairs of models (lower, higher) by top-1.
PAPER_RANKINGS: tuple[tuple[str, str], ...] = (
    ("spatial, mean", "mixing, mean"),
    ("spatial", "mixed keys"),
    ("spatial", "mixed values"),
    ("mixed keys", "mixing"),
    ("mixed values", "mixing"),
)
