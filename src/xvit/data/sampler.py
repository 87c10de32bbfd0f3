"""Which videos an epoch trains on, and in which order.

The order is a function of (seed, epoch), divided among the processes.

each video once     3 0 4 1 2     a permutation
class_balanced      0 0 3 0 1     drawn with replacement, all classes equally often on average
repeated_aug=2      3 3 0 0 4     each video twice in a row, half as many videos per epoch

2 processes         3 0 4 1 2 3   the first index again, so that both processes have equally many
  rank 0            3   4   2     step by step, the two together have the batches that one process with twice the
  rank 1              0   1   3   batch size would have
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.utils import distributed
from xvit.utils.errors import XViTError, check_range


class EpochSampler(Sampler[int]):
    """Indices into a data set of N samples: i + N k is the k-th repetition of sample i in the epoch, from k = 0.

    Args:
        class_balanced: draw with replacement, so that all classes are equally frequent on average.
        repeated_aug: how often each sample is repeated in a row (repeated augmentation). The number of clips per epoch
            stays the same.

    Attributes:
        skip: number of indices to skip at the start of the next pass, without reading their samples.

    Raises:
        XViTError: `repeated_aug` out of range; class_balanced for samples that do not have exactly one label each.
    """

    def __init__(self, dataset: VideoDataset, *, class_balanced: bool = False, repeated_aug: int = 1) -> None:
        check_range("repeated_aug", repeated_aug, 1)
        self.dataset = dataset
        self.repeated_aug = repeated_aug
        self.skip = 0
        self._probabilities = _balanced_probabilities(dataset.samples) if class_balanced else None

    def __len__(self) -> int:
        return -(-len(self.dataset.samples) // distributed.world_size())

    def __iter__(self) -> Iterator[int]:
        rng, total = np.random.default_rng([self.dataset.seed, self.dataset.epoch]), len(self.dataset.samples)
        p = self._probabilities
        drawn = rng.permutation(total) if p is None else rng.choice(total, size=total, p=p)
        indices = np.repeat(drawn, self.repeated_aug)[:total].tolist()
        repetitions: Counter[int] = Counter()
        for position, index in enumerate(indices):
            indices[position] += total * repetitions[index]
            repetitions[index] += 1
        padded = np.resize(indices, len(self) * distributed.world_size())  # repeats the first indices if need be
        start, self.skip = self.skip, 0
        return iter(padded[distributed.rank() :: distributed.world_size()][start:].tolist())


def _balanced_probabilities(samples: Sequence[Sample]) -> np.ndarray:
    """A probability for each sample, such that all classes have the same probability."""
    labels = [sample.label for sample in samples]
    if not all(isinstance(label, int) for label in labels):
        expected = "expected exactly one label per video, not several tasks or several labels"
        raise XViTError(f"data.class_balanced=True: {expected}")
    counts = Counter(labels)
    return np.array([1 / (len(counts) * counts[label]) for label in labels])
