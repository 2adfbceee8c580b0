"""Randomness that follows from a position in the training, not from what ran before (ours).

A sample's augmentation is a function of (seed, epoch, index), a step's dropout one of (seed, rank,
iteration). So a run that was stopped goes on as if it had not been, with any number of workers.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Sampler

#: Keeps the seeds of samples and those of steps apart.
_SAMPLE, _STEP = 1, 2


class Draw(NamedTuple):
    """A sample as the sampler drew it.

    Attributes:
        index: Index into the data set, as the sampler gave it.
        seed: The run's seed.
        epoch: Epoch, or how often an endless sampler has gone through the data set.
        repeat: How often the index was drawn before in this epoch.
    """

    index: Any
    seed: int
    epoch: int
    repeat: int


def seed_generators(*key: int) -> None:
    """Seed the global generators of Python, numpy and torch from non-negative numbers."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


def generator_states() -> dict[str, Any]:
    """The states of the global generators of Python, numpy and torch (and of the current GPU)."""
    states: dict[str, Any] = dict(
        python=random.getstate(), numpy=np.random.get_state(), torch=torch.get_rng_state()
    )
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Undo every draw since :func:`generator_states`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def seed_sample(draw: Draw) -> None:
    """Seed the global generators for the augmentation of one sample."""
    index = draw.index
    if not isinstance(index, (int, np.integer)):
        index = zlib.crc32(repr(index).encode())  # video samplers draw tuples
    seed_generators(_SAMPLE, draw.seed, draw.epoch, int(index), draw.repeat)


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed the global generators for one training iteration of one process."""
    seed_generators(_STEP, seed, rank, iteration)


@DATASETS.register_module()
class SeededDataset:
    """A data set whose samples do not depend on what was loaded before.

    Seeds the generators before each sample that comes as a :class:`Draw`; this covers nested data
    sets, partners that MultiImageMixDataset picks, and substitutes for samples that were None.
    Everything else, also setting attributes as PipelineSwitchHook does, goes to the data set inside.

    Args:
        dataset: A data set, or its config.
    """

    def __init__(self, dataset: Any) -> None:
        built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        object.__setattr__(self, "dataset", built)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, Draw):
            seed_sample(item)
            item = item.index
        return self.dataset[item]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # torch asks for __getitems__, which would go past __getitem__; copying asks for __setstate__.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __getstate__(self) -> Any:
        return self.dataset

    def __setstate__(self, dataset: Any) -> None:
        object.__setattr__(self, "dataset", dataset)


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(Sampler[list[Draw]]):
    """Batches of :class:`Draw` that can start in the middle, without loading what is skipped.

    Args:
        sampler: Gives the indices.
        batch_size: Samples per batch; several numbers for a batch sampler that takes several.
        drop_last: Whether a last, smaller batch is left out.
        batch_sampler: Config of another batch sampler that forms the batches, such as mmdet's
            AspectRatioBatchSampler; `drop_last` is then its own matter.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: Any,
        drop_last: bool = False,
        batch_sampler: dict[str, Any] | None = None,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.batches: Any
        if batch_sampler is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            given = dict(sampler=sampler, batch_size=batch_size)
            self.batches = DATA_SAMPLERS.build(batch_sampler, default_args=given)
        self.start(seed=0)

    def start(self, seed: int, epoch: int = 0, skip: int = 0, endless: bool = False) -> None:
        """Say what the next iteration over the batches gives.

        Args:
            seed: The run's seed.
            epoch: The epoch that it starts in.
            skip: Batches to leave out at the start.
            endless: Whether it goes on with the next epoch where one ends.
        """
        self.seed, self.epoch, self.skip, self.endless = seed, epoch, skip, endless

    def __iter__(self) -> Iterator[list[Draw]]:
        for number, batch in enumerate(self._stream()):
            if number >= self.skip:
                yield batch

    def __len__(self) -> int:
        return len(self.batches)

    def _stream(self) -> Iterator[list[Draw]]:
        rank, world_size = get_dist_info()
        size = max(len(self.sampler.dataset), 1) if hasattr(self.sampler, "dataset") else None
        # mmengine's InfiniteSampler has no epochs; how often all was drawn takes their place, over
        # all processes, since an image may come to another process the next time.
        laps = size is not None and not hasattr(self.sampler, "epoch")
        epoch, drawn = self.epoch, 0
        while True:
            if self.endless and hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            seen: Counter[Any] = Counter()
            lap = 0
            before = drawn
            for batch in self.batches:
                marked = []
                for index in batch:
                    if laps and (drawn * world_size + rank) // size != lap:
                        lap = (drawn * world_size + rank) // size
                        seen.clear()
                    marked.append(Draw(index, self.seed, epoch + lap, seen[index]))
                    seen[index] += 1
                    drawn += 1
                yield marked
            if not self.endless:
                return
            if drawn == before:
                raise ValueError(
                    "the training data set gives no batch: it is empty, or smaller "
                    "than one batch with drop_last"
                )
            epoch += 1
