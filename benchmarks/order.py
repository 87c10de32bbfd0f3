"""Which orders of frames the attention schemes can tell apart, at initialisation and with any weights.

    python benchmarks/order.py --json > docs/results/order.json     measure
    python benchmarks/order.py --report docs/results/order.json     print the table of docs/guides/order.md

Reversed and shuffled clips are of 16 random pictures. Shifted clips show a still picture, an event of two frames, and
the still picture again, so that moving all frames by one (the last one comes first) is the same event a frame later:

    0 0 0 0 0 0 0 1 2 0 0 0 0 0 0 0     the numbers are random pictures, other ones in each clip
    0 0 0 0 0 0 0 0 1 2 0 0 0 0 0 0     shifted

The model has 6 layers, so that with a window of one frame the edges of the clip hardly notice the event.

"At initialisation", a model of xvit has the weights of an image model (random ones: their values do not matter here),
and what is new in it has its initial values; a model of transformers has the library's. "Any weights": noise is added
to all weights, so that none is zero, or equal to another one, by construction. All is computed in float64, in which
rounding is a few 1e-15, so that a symmetry can be told from a small change.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from common import log_progress
from xvit import create_model
from xvit.experiments.benchmark.peers import build_model
from xvit.experiments.common import markdown_table
from xvit.experiments.order.compare import AS_IS, REVERSED, SHUFFLED, frame_orders, logit_changes, order_logits

BACKBONE = "test_vit"  # timm's model for tests: 6 layers, 64 channels, 100 patches
NUM_FRAMES, NUM_EVENT_FRAMES, NUM_CLIPS = 16, 2, 4
NOISE = 0.1  # standard deviation of what is added to each weight
ROUNDING = 1e-13  # in float64; below it, there is no change
SHIFTED = "shifted"
ORDERS = (REVERSED, SHUFFLED, SHIFTED)
STATES = {"initial": "at initialisation", "any_weights": "any weights"}
COLUMNS = ("model", *(f"{state}: {kind}" for state in STATES.values() for kind in ORDERS), "why")

NO_POSITION: dict[str, Any] = {"temporal_position": "none"}
# Rows: the reason, and the options of `create_model`; None for a model of transformers.
SCHEMES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "spatial": (
        "frames do not see each other, and the temporal head attends to them as a set; only learned positions, which "
        "start at zero, tell their order",
        {"attention": "spatial"},
    ),
    "spatial, mean": (
        "the same with a mean over the frames; positions enter before the first layer",
        {"attention": "spatial", "temporal_head": "mean"},
    ),
    "spatial, position in the head": (
        "the same, with positions in the temporal head",
        {"attention": "spatial", "temporal_position": "head"},
    ),
    "spatial, no position": (
        "without positions the clip is a set of frames, whatever the weights",
        {"attention": "spatial"} | NO_POSITION,
    ),
    "spatial, summary token": (
        "all frames attend to the same set of summaries",
        {"attention": "spatial", "summary_tokens": 1},
    ),
    "spatial, tubelet 2": (
        "image weights are divided equally between both frames of a tubelet, so that it is their mean; a reversed clip "
        "has the same tubelets",
        {"attention": "spatial", "tubelet_size": 2},
    ),
    "joint": ("all tokens of the clip are one set; only positions tell their order", {"attention": "joint"}),
    "joint, no position": ("a set, whatever the weights", {"attention": "joint"} | NO_POSITION),
    "divided": (
        "attention over time is over a set of frames, too; only positions tell their order",
        {"attention": "divided"},
    ),
    "divided, no position": ("a set, whatever the weights", {"attention": "divided"} | NO_POSITION),
    "local": (
        "each frame sees which frames are near, but not which one is earlier: a reversed clip has the same neighbours",
        {"attention": "local"},
    ),
    "local, no position": (
        "blind to the reverse whatever the weights; frames at the edges see fewer frames, hence the trace of a shift",
        {"attention": "local"} | NO_POSITION,
    ),
    "mixing": ("the next and the previous frame fill different channels of keys and values", {}),
    "mixing, mean": ("the same: the temporal head is not needed for it", {"temporal_head": "mean"}),
    "mixing, position in the head": ("the same, and positions in the head", {"temporal_position": "head"}),
    "mixing, no position": (
        "order comes from mixing alone, so that a shift leaves no more than the trace of the zeros at the edges",
        NO_POSITION,
    ),
    "mixing, replicate, no position": (
        "with copies at the edges instead of zeros, a shift changes nothing",
        {"temporal_padding": "replicate"} | NO_POSITION,
    ),
    "mixing, causal": ("frames see the past only", {"causal": True}),
    "mixing, causal, no position": (
        "the zeros before the first frame do not reach the event, 7 frames later, in 6 layers: a shift changes nothing",
        {"causal": True} | NO_POSITION,
    ),
    "mixing, rho 1": ("no channel comes from the frame itself, but the neighbours differ", {"mix_ratio": 1.0}),
    "mixing, summary token": ("as mixing: summaries are a set", {"summary_tokens": 1}),
    "mixing, tubelet 2": (
        "as mixing, over tubelets; a shift by one frame divides them differently",
        {"tubelet_size": 2},
    ),
    "TimeSformer": ("divided attention, and positions that start at zero", None),
    "ViViT": ("the two frames of a tubelet have different weights; positions start at zero", None),
    "VideoMAE": ("fixed positions, sines and cosines, and tubelets as those of ViViT", None),
}


def build(name: str) -> nn.Module:
    """A model at initialisation, the same in each call."""
    torch.manual_seed(0)
    options = SCHEMES[name][1]
    if options is None:
        return build_model(name, backbone=BACKBONE, frames=NUM_FRAMES).double().eval()
    image_model = timm.create_model(BACKBONE)
    return create_model(image_model, num_classes=10, num_frames=NUM_FRAMES, **options).double().eval()


@torch.no_grad()
def add_noise(model: nn.Module) -> nn.Module:
    """Add noise to all weights, in place."""
    torch.manual_seed(1)
    for tensor in model.parameters():
        tensor.add_(NOISE * torch.randn_like(tensor))
    return model


def draw_clips(size: int = 160) -> dict[str, Tensor]:
    """Clips (B, T, 3, size, size) for each of `ORDERS`: of different pictures, or of an event in a still picture."""
    pictures = torch.randn(
        NUM_CLIPS, NUM_FRAMES, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    still_frames = (NUM_FRAMES - NUM_EVENT_FRAMES) // 2
    event = [0] * still_frames + list(range(1, 1 + NUM_EVENT_FRAMES)) + [0] * still_frames
    return {REVERSED: pictures, SHUFFLED: pictures, SHIFTED: pictures[:, event]}


def measure(model: nn.Module, clips: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest change of a logit in each of `ORDERS`, in units of the logits' standard deviation."""
    changes = {}
    for kind, of_kind in clips.items():
        orders = []
        for index in range(NUM_CLIPS):
            drawn = frame_orders(NUM_FRAMES, np.random.default_rng([0, index]))
            drawn[SHIFTED] = np.roll(drawn[AS_IS], 1, axis=1)
            orders.append({name: drawn[name] for name in (AS_IS, kind)})
        [logits] = order_logits(model, of_kind, orders).values()
        changes[kind] = float(f"{logit_changes(logits)[kind].largest:.1e}")
    return changes


def measure_all() -> dict[str, Any]:
    """The changes of all models at initialisation and with any weights, as plain values for JSON."""
    clips, rows = draw_clips(), {}
    for number, name in enumerate(SCHEMES, start=1):
        log_progress(f"{name}: {number} of {len(SCHEMES)}")
        model = build(name)
        rows[name] = {"initial": measure(model, clips), "any_weights": measure(add_noise(model), clips)}
    versions = {package.__name__: package.__version__ for package in (torch, timm, import_module("transformers"))}
    return {"backbone": BACKBONE, "num_frames": NUM_FRAMES, "noise": NOISE, "versions": versions, "models": rows}


def report(measured: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table of docs/guides/order.md."""
    rows = []
    for name, states in measured["models"].items():
        values = [states[state][kind] for state in STATES for kind in ORDERS]
        cells = ["0" if value < ROUNDING else f"{value:.1g}" for value in values]
        rows.append([name, *cells, SCHEMES[name][0]])
    return markdown_table(COLUMNS, rows)


def main() -> None:
    """Measure, or print the table of an earlier measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, metavar="FILE", help="print the table of this file; measure nothing")
    parser.add_argument("--json", action="store_true", help="print the numbers instead of the table")
    args = parser.parse_args()
    measured = json.loads(args.report.read_text(encoding="utf-8")) if args.report else measure_all()
    print(json.dumps(measured, indent=1) if args.json else "\n".join(report(measured)))


if __name__ == "__main__":
    main()
