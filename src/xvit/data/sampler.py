"""Which videos an epoch trains on, and in which order.

The order is a function of (seed, epoch), divided among the processes.

each video once     3 0 4 1 2     a permutation
class_balanced      0 0 3 0 1     drawn with replacement, all classes equally often on average
repeated_aug=2      3 3 0 0 4     each video twice in a row, half as many videos per epoch

2 processes         3 0 4 1 2 3   the first index again, so that both processes have equally many
  rank 0            3   4   2     step by step, the two together have the batches that one process with twice the
  rank 1              0   1   3   batch size would have

Videos in shards are read in runs of neighbours, so that a disk reads them one after another:

shards of 16        8-15 40-47 0-7 24-31 ...   a permutation of runs, cut at other places in each epoch
2 processes, batches of 4
  rank 0            8-11 40-43 ...             each process reads one part of the clips of a step, not every second one
  rank 1            12-15 44-47 ...
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.shards import shard_of
from xvit.utils import distributed
from xvit.utils.errors import XViTError, check_range

_RUN = 8  # videos of a shard that are read one after another
_OPEN_SHARDS = 16  # shards that are read from at a time


class EpochSampler(Sampler[int]):
    """Indices into a data set of N samples: i + N k is the k-th repetition of sample i in the epoch, from k = 0.

    Args:
        dataset: the N samples.
        class_balanced: draw with replacement, so that all classes are equally frequent on average.
        repeated_aug: how often each sample is repeated in a row (repeated augmentation). The number of clips per epoch
            stays the same.
        batch_size: clips of a process in a step. Processes that read from shards need it to share the clips of a step.

    Attributes:
        skip: number of indices to skip at the start of the next pass, without reading their samples.

    Raises:
        XViTError: `repeated_aug` out of range; class_balanced for samples that do not have exactly one label each.
    """

    def __init__(
        self, dataset: VideoDataset, *, class_balanced: bool = False, repeated_aug: int = 1, batch_size: int = 1
    ) -> None:
        check_range("repeated_aug", repeated_aug, 1)
        check_range("batch_size", batch_size, 1)
        self.dataset = dataset
        self.repeated_aug, self.batch_size = repeated_aug, batch_size
        self.skip = 0
        self._probabilities = _balanced_probabilities(dataset.samples) if class_balanced else None
        self._shards = _group_by_shard(dataset.samples)

    def __len__(self) -> int:
        return -(-len(self.dataset.samples) // distributed.world_size())

    def __iter__(self) -> Iterator[int]:
        rng, total = np.random.default_rng([self.dataset.seed, self.dataset.epoch]), len(self.dataset.samples)
        p = self._probabilities
        if p is not None:
            drawn = rng.choice(total, size=total, p=p)
        else:
            drawn = _shuffle_shards(self._shards, rng) if self._shards else rng.permutation(total)
        indices = np.repeat(drawn, self.repeated_aug)[:total].tolist()
        repetitions: Counter[int] = Counter()
        for position, index in enumerate(indices):
            indices[position] += total * repetitions[index]
            repetitions[index] += 1
        padded = np.resize(indices, len(self) * distributed.world_size())  # repeats the first indices if need be
        start, self.skip = self.skip, 0
        return iter(self._share(padded)[start:].tolist())

    def _share(self, indices: np.ndarray) -> np.ndarray:
        """The indices of this process: of each step as many as of every other process."""
        rank, world_size = distributed.rank(), distributed.world_size()
        if not self._shards:
            return indices[rank::world_size]
        last_step = len(indices) - len(indices) % (self.batch_size * world_size)  # where it starts; it may be short
        steps = indices[:last_step].reshape(-1, world_size, self.batch_size)[:, rank].ravel()
        return np.concatenate([steps, indices[last_step:].reshape(world_size, -1)[rank]])


def _balanced_probabilities(samples: Sequence[Sample]) -> np.ndarray:
    """A probability for each sample, such that all classes have the same probability."""
    labels = [sample.label for sample in samples]
    if not all(isinstance(label, int) for label in labels):
        expected = "expected exactly one label per video, not several tasks or several labels"
        raise XViTError(f"data.class_balanced=True: {expected}")
    counts = Counter(labels)
    return np.array([1 / (len(counts) * counts[label]) for label in labels])


def _group_by_shard(samples: Sequence[Sample]) -> list[np.ndarray]:
    """The indices of the samples of each shard, in the order of the samples; empty if no sample is in a shard."""
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(shard_of(sample.path), []).append(index)
    return [np.array(indices) for indices in groups.values()] if any(groups) else []


def _shuffle_shards(shards: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """All indices: a few shards at a time, of those the runs of neighbours in any order.

    Args:
        shards: the indices of each shard, in the order in which they lie in it.
    """
    order = rng.permutation(len(shards))
    runs: list[np.ndarray] = []
    for start in range(0, len(order), _OPEN_SHARDS):
        cuts = [(shards[i], range(int(rng.integers(_RUN)), len(shards[i]), _RUN)) for i in order[start:][:_OPEN_SHARDS]]
        opened = [run for shard, places in cuts for run in np.split(shard, places) if len(run)]
        runs += [opened[i] for i in rng.permutation(len(opened))]
    return np.concatenate(runs)
