"""The models, tables and comparisons of the ablation study: section 4 of the paper, and the other attention schemes.

The paper's figures are top-1 in % on Something-Something v2 with ViT-B/16 and 8 frames. The data set and the model size
differ here, so only differences between rows can be compared, and of these only the signs.
"""

from dataclasses import dataclass

from xvit.config import ModelConfig, model_config
from xvit.experiments.ablation.clips import NUM_FRAMES

Options = dict[str, bool | int | float | str]

DEPTH, EQUAL_MACS_DEPTH = 8, 6
_BASE = model_config(
    backbone="vit_tiny_patch16_224",
    num_frames=NUM_FRAMES,
    spatial_position="sincos",
    backbone_kwargs={"img_size": 48, "patch_size": 12, "embed_dim": 96, "num_heads": 8, "weight_init": "jax"},
)
_MEAN: Options = {"temporal_head": "mean"}
# Each model's changes of ModelConfig's defaults, which are the paper's choices: w = 1, rho = 50 %, keys and values, all
# layers, temporal attention. A model is trained once per seed, even if several tables contain it.
MODEL_OPTIONS: dict[str, Options] = {
    "spatial": {"attention": "spatial"},
    "mixing": {},
    "spatial (mean)": {"attention": "spatial", **_MEAN},
    "mixing (mean)": _MEAN,
    "w = 2 (mean)": {"window": 2, **_MEAN},
    "w = 2, replicate (mean)": {"window": 2, "temporal_padding": "replicate", **_MEAN},
    "first half (mean)": {"mixing_layers": "first_half", **_MEAN},
    "second half (mean)": {"mixing_layers": "second_half", **_MEAN},
    "mixed x": {"mix_inputs": "x"},
    "mixed keys": {"mix_inputs": "keys"},
    "mixed values": {"mix_inputs": "values"},
    "rho = 25 %": {"mix_ratio": 0.25},
    "rho = 100 %": {"mix_ratio": 1.0},
    "summary (mean)": {"summary_tokens": 1, **_MEAN},
    "divided": {"attention": "divided", "depth": EQUAL_MACS_DEPTH},
    "joint": {"attention": "joint"},
    "joint, patches": {"attention": "joint", "global_pool": "avg"},
    "tubelet 2": {"tubelet_size": 2},
    "merge 1": {"tome_r": 1},
    "tubelet 2, merge 1": {"tubelet_size": 2, "tome_r": 1},
}


def build_config(options: Options, num_classes: int | dict[str, int]) -> ModelConfig:
    """The settings of a model: `options` are those of `model_config`, and `depth` and `global_pool` of the backbone."""
    options = {"depth": DEPTH, **options}
    backbone: Options = {name: options.pop(name) for name in ("depth", "global_pool") if name in options}
    if "global_pool" in backbone:
        backbone["fc_norm"] = False  # the image model's norm stays before pooling
    kwargs = _BASE.backbone_kwargs | backbone
    return model_config(_BASE, num_classes=num_classes, backbone_kwargs=kwargs, **options)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        name: text of the first column.
        model: key in `MODEL_OPTIONS`.
        paper_top1: the paper's top-1 in % on Something-Something v2; None if the paper has no such row.
    """

    name: str
    model: str
    paper_top1: float | None = None


@dataclass(frozen=True)
class Table:
    """One comparison: its title says what varies, and in parentheses what all rows share. The first row is the base."""

    title: str
    rows: tuple[Row, ...]


def _table(title: str, *rows: Row) -> Table:
    return Table(title, rows)


TABLES: dict[str, Table] = {
    "mixing": _table(
        "Mixing and the temporal head",
        Row("mixing, temporal attention", "mixing", 63.4),
        Row("mixing (mean)", "mixing (mean)", 61.6),
        Row("spatial, temporal attention", "spatial", 55.6),
        Row("spatial (mean)", "spatial (mean)", 44.2),
    ),
    "window": _table(
        "Window (mean)",
        Row("w = 1", "mixing (mean)", 61.6),
        Row("w = 2", "w = 2 (mean)", 59.7),
        Row("w = 2, edges replicated", "w = 2, replicate (mean)"),
    ),
    "mixing_layers": _table(
        "Mixing layers (mean)",
        Row("all", "mixing (mean)", 61.6),
        Row("first half", "first half (mean)", 60.7),
        Row("second half", "second half (mean)", 60.6),
    ),
    "mix_inputs": _table(
        "Mixed inputs (temporal attention)",
        Row("keys and values", "mixing", 63.4),
        Row("keys", "mixed keys", 62.1),
        Row("values", "mixed values", 61.5),
        Row("x", "mixed x", 62.1),
    ),
    "mix_ratio": _table(
        "Mix ratio (temporal attention)",
        Row("50 %", "mixing", 63.4),
        Row("25 %", "rho = 25 %", 63.3),
        Row("100 %", "rho = 100 %", 60.7),
    ),
    "summary_tokens": _table(
        "Summary tokens (mean)",
        Row("none", "mixing (mean)", 61.6),
        Row("one per frame", "summary (mean)", 62.9),
    ),
    "attention": _table(
        "Other attention schemes (temporal attention)",
        Row("mixing", "mixing", 63.4),
        Row("divided, equal MACs (6 layers)", "divided"),
        Row("joint, class token", "joint"),
        Row("joint, mean of the patches", "joint, patches"),
    ),
    "token_reduction": _table(
        "Fewer tokens (temporal attention)",
        Row("none", "mixing", 63.4),
        Row("tubelet = 2", "tubelet 2"),
        Row("tome_r = 1", "merge 1"),
        Row("both", "tubelet 2, merge 1"),
    ),
}


PAPER_TABLES = tuple(name for name in TABLES if name != "token_reduction")  # tubelets and merging are not the paper's


@dataclass(frozen=True)
class Comparison:
    """A finding of the paper: `higher` is `gap` points of top-1 above `lower`; both are keys in `MODEL_OPTIONS`."""

    lower: str
    higher: str
    gap: float


_LEAST_GAP = 0.9  # points of top-1: the paper's runs vary by 0.4
# What changes between the two models of a comparison is one setting.
_PAIRS = (
    *(("spatial (mean)", "mixing (mean)"), ("spatial", "mixing"), ("spatial (mean)", "spatial")),
    *(("mixing (mean)", "mixing"), ("w = 2 (mean)", "mixing (mean)")),
    *(("first half (mean)", "mixing (mean)"), ("second half (mean)", "mixing (mean)")),
    *(("mixed keys", "mixing"), ("mixed values", "mixing"), ("mixed x", "mixing")),
    *(("rho = 100 %", "mixing"), ("rho = 25 %", "mixing"), ("mixing (mean)", "summary (mean)")),
)


def paper_comparisons() -> tuple[Comparison, ...]:
    """The paper's differences of at least 0.9 points between two models of the study that differ in one setting."""
    paper = {row.model: row.paper_top1 for table in TABLES.values() for row in table.rows if row.paper_top1 is not None}
    gaps = [(lower, higher, round(paper[higher] - paper[lower], 1)) for lower, higher in _PAIRS]
    return tuple(Comparison(*pair) for pair in gaps if pair[2] >= _LEAST_GAP)
