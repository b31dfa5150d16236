"""What a batch holds: a function of the seed, the epoch's number and the step, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_lab.augment import STAGES, Augmentation, BatchAugmentation, ImageAugmentation
from sbp_lab.augment.images import check_size, resize
from sbp_lab.data.fitting import fit
from sbp_lab.data.source import Source, Split
from sbp_lab.events import EventAugmentation, Events, Frames

#: Inputs, (batch, height, width, channels) or (batch, time, height, width, 2), float32; and labels.
Batch = tuple[NDArray[np.float32], NDArray[Any]]


class SampleError(ValueError):
    """A sample that could not be read or changed; the message names its split, its index and its file."""


class BatchMaker:
    """Makes batches of one split. It can be pickled, so that worker processes make what the main process would.

    Args:
        source: the data set.
        training: whether to take the training samples, shuffled and augmented, without a last partial batch; or the
            test samples in order, all of them.
        batch_size: samples in a batch of all shards together.
        seed: an integer of at least 0.
        augment: what to do to training samples.
        frames: how recordings of events become frames.
        size: (height, width) of the images; None: the source's.
        shard: which part of every batch, of how many.

    Raises:
        ValueError: arguments that do not fit the data or each other.
        TypeError: an argument of the wrong type.
    """

    def __init__(
        self,
        source: Source,
        *,
        training: bool,
        batch_size: int,
        seed: int,
        augment: Sequence[Augmentation] = (),
        frames: Frames | None = None,
        size: tuple[int, int] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.training = training
        self.batch_size = validation.count("batch_size", batch_size)
        self.seed = validation.count("seed", seed, least=0)
        self.shard = _check_shard(shard, self.batch_size)
        check_augment(augment, source, frames, size)
        self.num_classes = source.num_classes
        self.frames = frames
        self._stored = tuple(source.size)
        self.part = "training" if training else "test"
        self.name = source.name
        self.split: Split = source.train if training else source.test
        if training and batch_size > len(self.split):
            raise ValueError(
                f"batch_size must be at most {len(self.split)}, the training samples of {source.name}; got {batch_size}"
            )
        if frames is None:
            self.sample_shape: tuple[int, ...] = (*(size or source.size), source.channels)
        else:
            self.sample_shape = frames.shape(source.size)
        self.stages: dict[str, tuple[Augmentation, ...]] = {
            stage: tuple(each for each in augment if each.stage == stage) if training else () for stage in STAGES
        }
        first = self.stages["stored"][:1]
        self._fitted = not any(isinstance(each, ImageAugmentation) and each.any_size for each in first)
        self._figures = None if frames is not None else _rows(source, self.sample_shape)
        self._chance = _Chance(self.seed)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch of training, or in a pass over the test samples."""
        count = len(self.split)
        return count // self.batch_size if self.training else -(-count // self.batch_size)

    def __call__(self, epoch: int, step: int) -> Batch:
        """Return batch ``step``, from 0, of an epoch, or of a pass over the test samples."""
        places = self._places(epoch, step)
        mixed = self.stages["batch"]
        # what is mixed may come from any part of the batch
        own = places if mixed else _part(places, self.shard)
        samples = [self._sample(epoch, int(place)) for place in own]
        inputs = self._stacked(epoch, samples, own)
        labels: NDArray[Any] = self.split.labels[own]
        if mixed:
            labels = np.eye(self.num_classes, dtype=np.float32)[labels]
            for number, each in enumerate(mixed):
                if isinstance(each, BatchAugmentation):
                    rng = self._chance.generator(epoch, step, len(STAGES) + number)
                    inputs, labels = each.on_batch(inputs, labels, rng)
            inputs, labels = (np.ascontiguousarray(_part(each, self.shard)) for each in (inputs, labels))
        return inputs, labels

    def _places(self, epoch: int, step: int) -> NDArray[np.int64]:
        if self._order is None or (self.training and self._order[0] != epoch):
            count = len(self.split)
            order = np.random.default_rng([self.seed, epoch]).permutation(count) if self.training else np.arange(count)
            self._order = epoch, order
        return self._order[1][step * self.batch_size : (step + 1) * self.batch_size]

    def _sample(self, epoch: int, place: int) -> NDArray[Any]:
        """Return a sample before it is normalised, or as frames."""
        sample: Any = self._guarded(place, "", lambda: self.split[place])
        if isinstance(sample, np.ndarray) and self._fitted:
            sample = self._guarded(place, "size: ", partial(self._sized, sample))
        if self.stages["stored"]:
            rng = self._chance.generator(epoch, place, 0)
            for each in self.stages["stored"]:
                sample = self._guarded(place, f"{each.kind}: ", partial(_changed, each, sample, rng))
        if isinstance(sample, Events) and self.frames is not None:
            sample = self._guarded(place, "frames: ", partial(self.frames, sample))
        if not isinstance(sample, np.ndarray):
            wanted = "an image (height, width, channels)" if self.frames is None else "Events"
            raise self._error(place, f"must be {wanted}, got {type(sample).__name__}")
        if sample.shape != self.sample_shape:
            raise self._error(place, f"must have shape {self.sample_shape}, got {sample.shape}")
        return sample

    def _sized(self, image: NDArray[Any]) -> NDArray[Any]:
        size = self.sample_shape[0], self.sample_shape[1]
        if image.ndim != 3 or image.shape[:2] == size:
            return image
        # all images alike are stretched; of those of their own sizes the middle is taken
        return resize(image, size) if image.shape[:2] == self._stored else fit(image, size)

    def _stacked(self, epoch: int, samples: list[NDArray[Any]], places: NDArray[np.int64]) -> NDArray[np.float32]:
        if not samples:
            return np.zeros((0, *self.sample_shape), np.float32)
        inputs = np.stack(samples).astype(np.float32, copy=False)
        if self._figures is not None:
            # one row of pixels at a time: a loop over three channels would be slow
            rows = inputs.reshape(-1, self._figures[0].size)
            rows -= self._figures[0]
            rows /= self._figures[1]
        for index, place in enumerate(places if self.stages["normalised"] else ()):
            rng = self._chance.generator(epoch, int(place), 1)
            for each in self.stages["normalised"]:
                inputs[index] = self._guarded(int(place), f"{each.kind}: ", partial(_changed, each, inputs[index], rng))
        return inputs

    def _guarded(self, place: int, where: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            raise self._error(place, f"{where}{type(error).__name__}: {error}") from error

    def _error(self, place: int, what: str) -> SampleError:
        files = getattr(self.split, "files", None)
        file = f" ({files[place]})" if files is not None and str(files[place]) not in what else ""
        return SampleError(f"{self.name}: {self.part} sample {place}{file}: {what}")


class _Chance:
    """A generator for each sample of each epoch: blocks of one counter-based generator, so that none is ever made."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=np.random.SeedSequence(seed).generate_state(2, np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._counter = np.zeros(4, np.uint64)
        self._state = self._bits.state
        self._state["state"]["counter"] = self._counter
        self._seed = seed

    def __reduce__(self) -> tuple[type[_Chance], tuple[int]]:
        return _Chance, (self._seed,)

    def generator(self, epoch: int, index: int, stage: int) -> np.random.Generator:
        """Return the generator, set to where the draws of that sample begin; the next call sets it elsewhere."""
        self._counter[1:] = index, epoch, stage
        self._bits.state = self._state
        return self._generator


def check_augment(
    augment: Sequence[Augmentation],
    source: Source,
    frames: Frames | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Raise unless augmentations, frames and size fit a data set and each other.

    Raises:
        ValueError: they do not.
        TypeError: not augmentations.

    Example:
        >>> from sbp_lab.augment import Crop, Cutout
        >>> from sbp_lab.data import open_data
        >>> check_augment((Cutout(), Crop()), open_data("digits", None))
        Traceback (most recent call last):
        ...
        ValueError: augment must have 'crop' before 'cutout', which acts on normalised images
    """
    if source.events != (frames is not None):
        raise ValueError(
            f"frames must be given for {source.name}, whose samples are recordings of events"
            if source.events
            else f"frames must be None for {source.name}, whose samples are images; got {frames}"
        )
    if frames is not None:
        shape = frames.shape(source.size)
        if size is not None and tuple(size) != shape[1:3]:
            raise ValueError(f"size must be None for events, or that of frames, {shape[1:3]}; got {size}")
    elif size is not None:
        size = check_size("size", size)
    before: Augmentation | None = None
    for index, each in enumerate(augment):
        if not isinstance(each, Augmentation):
            raise TypeError(f"augment must hold augmentations, got {type(each).__name__} at {index}")
        events, images = isinstance(each, EventAugmentation), isinstance(each, ImageAugmentation)
        if isinstance(each, BatchAugmentation):
            events, images = True, not each.events_only
        if not (events if source.events else images):
            changes, has = ("images", "events") if source.events else ("events", "images")
            raise ValueError(f"augment must not have {each.kind!r}, which changes {changes}; {source.name} has {has}")
        if before is not None and STAGES.index(before.stage) > STAGES.index(each.stage):
            acts = "acts on normalised images" if before.stage == "normalised" else "acts on whole batches"
            raise ValueError(f"augment must have {each.kind!r} before {before.kind!r}, which {acts}")
        wanted = size or source.size
        if isinstance(each, ImageAugmentation) and each.any_size:
            if index:
                raise ValueError(f"augment must begin with {each.kind!r}, which takes images of any size")
            if getattr(each, "size", wanted) != tuple(wanted):
                raise ValueError(f"augment must have {each.kind!r} of size={tuple(wanted)}, the images'; got {each}")
        before = each


def _changed(each: Augmentation, sample: Any, rng: np.random.Generator) -> Any:
    if not callable(each):
        raise TypeError(f"augment: {each.kind!r} must define __call__")
    return each(sample, rng)


def _rows(source: Source, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation of a row of pixels."""
    if source.mean is None or source.deviation is None:
        raise ValueError(f"{source.name} must have mean and deviation, got None")
    # what is the same in every image stays 0
    deviation = [value if value > 0.0 else 1.0 for value in source.deviation]
    mean, spread = (np.tile(np.asarray(values, np.float32), shape[-2]) for values in (source.mean, deviation))
    return mean, spread


def _check_shard(shard: tuple[int, int], batch_size: int) -> tuple[int, int]:
    if not isinstance(shard, tuple) or len(shard) != 2:
        raise TypeError(f"shard must be (index, count), got {shard!r}")
    count = validation.count("shard's count", shard[1])
    index = validation.count("shard's index", shard[0], least=0)
    if index >= count:
        raise ValueError(f"shard must be (index, count) with index below count, got {shard}")
    if batch_size % count:
        raise ValueError(f"batch_size must be a multiple of the {count} shards, got {batch_size}")
    return index, count


def _part(rows: NDArray[Any], shard: tuple[int, int]) -> NDArray[Any]:
    index, count = shard
    return rows[index * len(rows) // count : (index + 1) * len(rows) // count]
