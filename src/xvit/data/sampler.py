"""Which videos an epoch trains on, in which order: a function of (seed, epoch), shared out among the processes.

each video once     3 0 4 1 2     a permutation
class_balanced      0 0 3 0 1     drawn with replacement, each class as often
repeats=2           3 3 0 0 4     each video twice in a row, half of the videos an epoch

2 processes         3 0 4 1 2 3   the first again, so that both have as many
  the first         3   4   2     together they have, step by step, the batches that one process of twice the
  the second          0   1   3   batch size would have
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

from xvit.data.annotations.samples import Sample
from xvit.utils import distributed
from xvit.utils.errors import XViTError, check_range


class Epochs(Protocol):
    """A data set whose epoch is chosen, such as `xvit.data.dataset.VideoDataset`."""

    samples: Sequence[Sample]
    seed: int

    @property
    def epoch(self) -> int: ...


class EpochSampler(Sampler[int]):
    """Indices into a data set of N samples: i + N k stands for sample i, for the k-th time in the epoch, from 0.

    Args:
        dataset: what is read.
        class_balanced: draw with replacement, so that each class comes as often as the others on the average.
        repeats: how often in a row a sample comes (repeated augmentation); an epoch has as many clips as without.

    Attributes:
        skip: how many indices the next pass leaves out, from its beginning; those samples are not read.

    Raises:
        XViTError: class_balanced for samples without one label each.
    """

    def __init__(self, dataset: Epochs, *, class_balanced: bool = False, repeats: int = 1) -> None:
        check_range("repeated_aug", repeats, 1)
        self.dataset = dataset
        self.repeats = repeats
        self.skip = 0
        self._shares = _equal_shares(dataset.samples) if class_balanced else None

    def __len__(self) -> int:
        return -(-len(self.dataset.samples) // distributed.world_size())

    def __iter__(self) -> Iterator[int]:
        rng, total = np.random.default_rng([self.dataset.seed, self.dataset.epoch]), len(self.dataset.samples)
        drawn = rng.permutation(total) if self._shares is None else rng.choice(total, size=total, p=self._shares)
        order = np.repeat(drawn, self.repeats)[:total].tolist()
        times: Counter[int] = Counter()
        for place, index in enumerate(order):
            order[place] += total * times[index]
            times[index] += 1
        everywhere = np.resize(order, len(self) * distributed.world_size())  # the first again where some are wanting
        start, self.skip = self.skip, 0
        return iter(everywhere[distributed.rank() :: distributed.world_size()][start:].tolist())


def _equal_shares(samples: Sequence[Sample]) -> np.ndarray:
    """Probability of each sample, such that all classes have the same."""
    labels = [sample.label for sample in samples]
    if not all(isinstance(label, int) for label in labels):
        raise XViTError("data.class_balanced=True: for one label a video, not for several tasks or several labels")
    counts = Counter(labels)
    return np.array([1 / (len(counts) * counts[label]) for label in labels])
