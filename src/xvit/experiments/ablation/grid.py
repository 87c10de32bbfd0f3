"""What is compared: the paper's ablations (section 4), with its figures, the attention schemes, fewer operations.

The paper's figures are top-1 in % on Something-Something v2 with ViT-B/16 and 8 frames: another task and another size
of model. What can be compared is which row is above which.
"""

from dataclasses import dataclass
from typing import Any

# What a recipe may say otherwise, and the tables' rows take for granted.
PAPER: dict[str, Any] = {
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
MEAN: dict[str, Any] = {"temporal_head": "mean"}
# Changes of PAPER, by name. Each is trained once a seed, in how many tables it may stand.
MODELS: dict[str, dict[str, Any]] = {
    "spatial": {"attention": "spatial"},
    "mixing": {},
    "spatial, mean": {"attention": "spatial", **MEAN},
    "mixing, mean": MEAN,
    "w = 2, mean": {"window": 2, **MEAN},
    "w = 2, boundary only, mean": {"window": 2, "boundary_only": True, **MEAN},
    "mixed x": {"mix_inputs": "x"},
    "mixed keys": {"mix_inputs": "keys"},
    "mixed values": {"mix_inputs": "values"},
    "rho = 25 %": {"mix_ratio": 0.25},
    "rho = 100 %": {"mix_ratio": 1.0},
    "local": {"attention": "local"},
    "divided": {"attention": "divided"},
    "joint": {"attention": "joint"},
    "first half, mean": {"mixing_layers": "first_half", **MEAN},
    "second half, mean": {"mixing_layers": "second_half", **MEAN},
    "odd layers, mean": {"mixing_layers": "odd", **MEAN},
    "2 temporal layers": {"temporal_layers": 2},
    "3 temporal layers": {"temporal_layers": 3},
    "summary, mean": {"summary_tokens": 1, **MEAN},
    "summary": {"summary_tokens": 1},
    "tubelet 2": {"tubelet_size": 2},
    "merge 1": {"tome_r": 1},
    "tubelet 2, merge 1": {"tubelet_size": 2, "tome_r": 1},
}


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Args:
        name: what it is in this table.
        model: its key in `MODELS`.
        paper: the paper's top-1 in %, None where the paper has no such row.
        kinetics: the same on Kinetics-400, where the paper has it.
    """

    name: str
    model: str
    paper: float | None = None
    kinetics: float | None = None


@dataclass(frozen=True)
class Table:
    """One comparison.

    Args:
        title: what varies, and what all rows share.
        rows: its lines.
    """

    title: str
    rows: tuple[Row, ...]


TABLES: dict[str, Table] = {
    "window": Table(
        "Window (temporal mean)",
        (
            Row("w = 0", "spatial, mean", 44.2),
            Row("w = 1", "mixing, mean", 61.6),
            Row("w = 2", "w = 2, mean", 59.7),
            Row("w = 2, boundary only", "w = 2, boundary only, mean", 59.6),
        ),
    ),
    "mixed": Table(
        "What is mixed (temporal attention)",
        (
            Row("nothing", "spatial", 55.6),
            Row("x", "mixed x", 62.1),
            Row("keys", "mixed keys", 62.1),
            Row("values", "mixed values", 61.5),
            Row("keys and values", "mixing", 63.4),
        ),
    ),
    "fraction": Table(
        "Mixed fraction (temporal attention)",
        (
            Row("0 %", "spatial", 55.6),
            Row("25 %", "rho = 25 %", 63.3),
            Row("50 %", "mixing", 63.4),
            Row("100 %", "rho = 100 %", 60.7),
        ),
    ),
    "schemes": Table(
        "Attention scheme (temporal attention)",
        (
            Row("spatial", "spatial", 55.6),
            Row("mixing", "mixing", 63.4),
            Row("local", "local"),
            Row("divided", "divided"),
            Row("joint", "joint"),
        ),
    ),
    "layers": Table(
        "Mixing layers (temporal mean)",
        (
            Row("first half", "first half, mean", 60.7),
            Row("second half", "second half, mean", 60.6),
            Row("every odd one", "odd layers, mean", 60.3),
            Row("all", "mixing, mean", 61.6),
        ),
    ),
    "head": Table(
        "Layers of temporal attention",
        (
            Row("0 (mean)", "mixing, mean", 61.6),
            Row("1", "mixing", 63.4),
            Row("2", "2 temporal layers", 63.4),
            Row("3", "3 temporal layers", 63.4),
        ),
    ),
    "summary": Table(
        "Summary tokens and temporal attention (TA)",
        (
            Row("neither", "mixing, mean", 61.6, 77.8),
            Row("summary", "summary, mean", 62.9, 78.7),
            Row("both", "summary", 62.5, 78.0),
            Row("TA", "mixing", 63.4, 78.5),
        ),
    ),
    "operations": Table(
        "Fewer operations (temporal attention)",
        (
            Row("all", "mixing"),
            Row("tubelet = 2", "tubelet 2"),
            Row("tome_r = 1", "merge 1"),
            Row("both", "tubelet 2, merge 1"),
        ),
    ),
}

# What the paper finds: pairs (worse, better) of models.
ORDERS: tuple[tuple[str, str], ...] = (
    ("spatial, mean", "mixing, mean"),
    ("spatial", "mixed keys"),
    ("spatial", "mixed values"),
    ("mixed keys", "mixing"),
    ("mixed values", "mixing"),
)
