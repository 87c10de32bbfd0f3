"""Does a model use the order of frames? The same clips are shown to it in other orders.

    as they are               0 1 2 3 4 5 6 7
    reversed                  7 6 5 4 3 2 1 0
    two neighbours swapped    0 1 2 4 3 5 6 7     the middle ones
    shuffled                  3 0 6 1 7 5 2 4     a random order of each clip, neither of the first two
    held still                4 4 4 4 4 4 4 4     the middle frame: what a single picture reveals

A model that ignores the order has the same logits for all of them but the last. The change of a logit is absolute, and
in units of the standard deviation of all logits of the clips as they are, so that models can be compared. A model with
random weights shows what the architecture itself distinguishes, before any training.

Where the reverse of a class is another class, its twin (opening and closing), accuracies say more: pair accuracy is the
share of clips whose own class has a higher logit than its twin, and a reversed clip should be recognised as the twin.
After Ghodrati, Gavves and Snoek (Video Time, 2018) and Sevilla-Lara et al. (Only Time Can Tell, 2021).

    B clips, T frames, K classes, n orders of the same kind
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvit.config import ClassNames, as_task_dict
from xvit.data.synthetic import motion
from xvit.evaluation import wilson_interval
from xvit.utils.errors import XViTError, did_you_mean

Model = Callable[[Tensor], Any]  # (B, T, C, H, W) to logits (B, K), for several tasks a dict of them
Pairs = Sequence[tuple[str, str]]
OrderLogits = dict[str, Tensor]  # by kind of order: (B, n, K) float64

AS_IS, REVERSED, SWAPPED, SHUFFLED, STILL = (
    "as they are",
    "reversed",
    "two neighbours swapped",
    "shuffled",
    "held still",
)
REORDERED = (REVERSED, SWAPPED, SHUFFLED)  # all frames, each once
NO_CHANGE = 1e-4  # of the logits' standard deviation; rounding in float32 is a few 1e-6

_NUM_SHUFFLES = 3  # of each clip
_MIN_FRAMES = 3  # two frames have no order but these and their reverse


@dataclass(frozen=True, kw_only=True)
class Change:
    """How much the logits change, in units of their standard deviation.

    Args:
        median: of the changes of all clips and classes.
        largest: of them.
    """

    median: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of clips of which something is true, and the number of clips. Of several orders, their mean."""

    share: float
    clips: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson_interval(round(self.share * self.clips), self.clips)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"

    def to_dict(self) -> dict[str, Any]:
        """The fields and the interval, as plain values for JSON."""
        return asdict(self) | {"interval": list(self.interval)}


@dataclass(frozen=True, kw_only=True)
class TaskOrder:
    """What the order of frames does in one task.

    Args:
        changes: of the logits, by kind of order.
        untrained: the same for the model with random weights.
        top1: share of clips whose class has the highest logit, by kind of order; empty without labels.
        pair_accuracy: share of clips whose class has a higher logit than its twin; empty if no clip has a twin.
        reversed_as_twin: share of reversed clips that are recognised as the twin of their class.
        only_as_is: number of clips that are recognised as they are but not reversed.
        only_reversed: number of clips that are recognised reversed but not as they are.
    """

    changes: dict[str, Change]
    untrained: dict[str, Change]
    top1: dict[str, Share] = field(default_factory=dict)
    pair_accuracy: dict[str, Share] = field(default_factory=dict)
    reversed_as_twin: Share | None = None
    only_as_is: int = 0
    only_reversed: int = 0

    @property
    def conclusion(self) -> str:
        """What follows from the measurement, in one sentence."""
        largest = max(self.changes[kind].largest for kind in REORDERED)
        if largest < NO_CHANGE:
            return f"This model ignores the order of frames: its logits change by at most {largest:.0e}"
        if self.changes[REVERSED].largest < NO_CHANGE:
            return (
                "This model cannot tell a clip from its reverse: its logits change by at most "
                f"{self.changes[REVERSED].largest:.0e}, and in other orders by up to {largest:.1g}"
            )
        if not self.top1:
            return f"The order of frames changes this model's logits, by up to {largest:.1g}"
        cost = 100 * (self.top1[AS_IS].share - self.top1[REVERSED].share)
        differing = self.only_as_is + self.only_reversed
        if differing and wilson_interval(self.only_as_is, differing)[0] > 0.5:  # a sign test
            return f"The model uses the order of frames: reversing the clips costs {cost:.1f} points of top-1"
        return (
            f"The order of frames changes this model's logits, by up to {largest:.1g}, but reversing these "
            f"{self.top1[AS_IS].clips} clips has no clear cost ({cost:+.1f} points of top-1)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields and the conclusion, as plain values for JSON."""
        shares = {
            name: {kind: share.to_dict() for kind, share in getattr(self, name).items()}
            for name in ("top1", "pair_accuracy")
        }
        twin = self.reversed_as_twin and self.reversed_as_twin.to_dict()
        return asdict(self) | shares | {"reversed_as_twin": twin, "conclusion": self.conclusion}


def frame_orders(num_frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Orders of the T frames of a clip: by kind, (n, T) indices of frames.

    Args:
        num_frames: T.
        rng: draws the shuffled orders.

    Raises:
        XViTError: fewer than 3 frames, which have no third order.
    """
    if num_frames < _MIN_FRAMES:
        raise XViTError(f"num_frames={num_frames}: the order of frames matters from {_MIN_FRAMES} on")
    as_is = np.arange(num_frames)
    swapped, middle = as_is.copy(), num_frames // 2
    swapped[[middle - 1, middle]] = middle, middle - 1
    return {
        AS_IS: as_is[None],
        REVERSED: as_is[None, ::-1],
        SWAPPED: swapped[None],
        SHUFFLED: np.stack([_shuffle(num_frames, rng) for _ in range(_NUM_SHUFFLES)]),
        STILL: np.full((1, num_frames), middle),
    }


def _shuffle(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """A random order (T,), neither the identity nor the reverse."""
    as_is = np.arange(num_frames)
    while True:
        order = rng.permutation(num_frames)
        if (order != as_is).any() and (order != as_is[::-1]).any():
            return order


@torch.inference_mode()
def order_logits(model: Model, clips: Tensor, orders: Sequence[Mapping[str, np.ndarray]]) -> dict[str, OrderLogits]:
    """The logits of clips whose frames are put into other orders.

    Args:
        model: clips (B, T, C, H, W) to logits.
        clips: (B, T, C, H, W), as the model takes them.
        orders: for each clip its orders, as `frame_orders` gives them: of the same kinds and numbers for all clips.

    Returns:
        By task and kind of order, (B, n, K) float64 on the CPU.

    Raises:
        XViTError: NaN or infinite logits.
    """
    result: dict[str, OrderLogits] = {}
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    for kind in orders[0]:
        indices = torch.from_numpy(np.stack([of_clip[kind] for of_clip in orders])).to(clips.device)  # (B, n, T)
        logits = [as_task_dict(model(clips[rows, order])) for order in indices.unbind(1)]  # n times (B, K)
        for task in logits[0]:
            values = torch.stack([of_order[task] for of_order in logits], dim=1).double().cpu()
            if not values.isfinite().all():
                raise XViTError("the model's logits are NaN or infinite, so they cannot be compared")
            result.setdefault(task, {})[kind] = values
    return result


def logit_changes(logits: OrderLogits) -> dict[str, Change]:
    """How much the logits of each order differ from those of the clips as they are.

    Raises:
        XViTError: the logits are all equal, so that they have no scale.
    """
    original = logits[AS_IS]
    spread = float(original.std(correction=0))
    if spread == 0:
        raise XViTError("the model gives the same logit to every clip and class, so there is nothing to compare")
    differences = {kind: (values - original).abs() / spread for kind, values in logits.items() if kind != AS_IS}
    return {kind: Change(median=float(x.median()), largest=float(x.max())) for kind, x in differences.items()}


def compare_orders(
    logits: OrderLogits, untrained: OrderLogits, labels: Tensor | None = None, twins: Tensor | None = None
) -> TaskOrder:
    """What the order of frames does to the logits and, if there are labels, to the accuracy.

    Args:
        logits: of the model.
        untrained: of the model with random weights; of any clips.
        labels: (B,) the class of each clip.
        twins: (K,) the twin of each class, -1 for none; see `find_twins`.
    """
    result = TaskOrder(changes=logit_changes(logits), untrained=logit_changes(untrained))
    if labels is None:
        return result
    right = {kind: values.argmax(dim=-1) == labels[:, None] for kind, values in logits.items()}  # (B, n)
    as_is, backwards = right[AS_IS][:, 0], right[REVERSED][:, 0]
    result = replace(
        result,
        top1={kind: _share(values) for kind, values in right.items()},
        only_as_is=int((as_is & ~backwards).sum()),
        only_reversed=int((backwards & ~as_is).sum()),
    )
    paired = torch.zeros_like(labels, dtype=torch.bool) if twins is None else twins[labels] >= 0
    if twins is None or not paired.any():
        return result
    own, twin = labels[paired], twins[labels[paired]]
    of_paired = {kind: values[paired] for kind, values in logits.items()}
    return replace(
        result,
        pair_accuracy={kind: _share(_logit_of(x, own) > _logit_of(x, twin)) for kind, x in of_paired.items()},
        reversed_as_twin=_share(of_paired[REVERSED].argmax(dim=-1) == twin[:, None]),
    )


def _share(values: Tensor) -> Share:
    return Share(share=float(values.double().mean()), clips=len(values))


def _logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """The logits (B, n) of one class of each clip, from all logits (B, n, K)."""
    return logits.gather(2, classes[:, None, None].expand(-1, logits.shape[1], 1))[:, :, 0]


def motion_pairs(class_names: ClassNames) -> Pairs:
    """The pairs of twins of the built-in data set, if the model knows all of its classes; else none."""
    known = {name for names in as_task_dict(class_names).values() for name in names}
    return [(first, second) for first, second, _ in motion.PAIRS] if known.issuperset(motion.CLASSES) else []


def find_twins(class_names: ClassNames, pairs: Pairs) -> dict[str, Tensor]:
    """The twin of each class, by task: (K,) class indices, -1 for none.

    Args:
        class_names: of the model.
        pairs: names of two classes of one task, each the reverse of the other.

    Raises:
        XViTError: a name that is not a class of the model, two classes of different tasks, a class with two twins.
    """
    tasks = as_task_dict(class_names)
    twins = {task: torch.full((len(names),), -1) for task, names in tasks.items()}
    known = [name for names in tasks.values() for name in names]
    for pair in pairs:
        for name in pair:
            if name not in known:
                raise XViTError(
                    f'class "{name}" is not one of the {len(known)} classes of the model.{did_you_mean(name, known)}'
                )
        task = next((task for task, names in tasks.items() if set(pair) <= set(names)), None)
        if task is None or pair[0] == pair[1]:
            raise XViTError(f'"{pair[0]}" and "{pair[1]}": expected two different classes of one task')
        first, second = (tasks[task].index(name) for name in pair)
        for index, twin in ((first, second), (second, first)):
            if twins[task][index] != -1:
                raise XViTError(f'class "{tasks[task][index]}" is in two pairs')
            twins[task][index] = twin
    return twins
