"""One loader for all frameworks: batches as NumPy arrays, made here or ahead of time by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from math import prod
from types import TracebackType
from typing import NamedTuple, Self

from sbp_core import validation
from sbp_core.registry import missing_framework
from sbp_lab.augment import Augmentation
from sbp_lab.batches import Batch, BatchMaker, SampleError, check_augment
from sbp_lab.data.source import ArraySplit, Source
from sbp_lab.events import Frames
from sbp_lab.workers import Stream

__all__ = ["Batch", "Batches", "Loader", "Place", "SampleError", "check_augment"]


class Place(NamedTuple):
    """Where an iterator stands: ``loader.epoch(*place)`` goes on from there."""

    epoch: int
    step: int


class Loader:
    """Batches of a data set, float32: images normalised by the training images' mean and deviation, or frames.

    What a training batch holds depends on the seed, the epoch's number and the step alone: not on the number of
    workers, nor on where one started. Every epoch has an order of its own, and every sample draws its own augmentation
    in it. What is left over at the end of a training epoch is dropped. Test batches are in order, with all samples.

    Args:
        source: the data set.
        batch_size: samples in a batch, of all shards together.
        seed: of orders and augmentations, at least 0.
        augment: what to do to training samples, in order of the stages (stored, normalised, batch). With one on
            batches the labels are shares of classes, float32 (batch, classes); else classes, int64 (batch,).
        frames: how recordings of events become frames (time, height, width, 2); None for images.
        size: (height, width) to bring images to; None: the source's. Images of the source's size are stretched, and of
            those of other sizes the middle is taken (:func:`sbp_lab.data.fit`), unless an augmentation takes its part.
        workers: processes that make batches ahead of time; with 0 there are none. Test batches of a split that is in
            memory are made here in any case.
        shard: ``(index, count)``: of every batch the part ``index`` of ``count``, for several processes that train
            together. The parts of a batch, one after the other, are the batch. The last test batch may have none.

    Raises:
        ValueError: arguments that do not fit the data or each other; from an iterator, as :class:`SampleError`, a
            sample that cannot be read or changed.
        TypeError: an argument of the wrong type.
        ModuleNotFoundError: workers without grain.

    Example:
        >>> from sbp_lab.data import open_data
        >>> with Loader(open_data("digits", None), batch_size=100, seed=0) as loader:
        ...     batches = loader.epoch(1)
        ...     images, labels = next(batches)
        ...     images.shape, labels.shape, batches.place
        ((100, 8, 8, 1), (100,), Place(epoch=1, step=1))
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        augment: Sequence[Augmentation] = (),
        frames: Frames | None = None,
        size: tuple[int, int] | None = None,
        workers: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.source = source
        self.batch_size = validation.count("batch_size", batch_size)
        self.workers = validation.count("workers", workers, least=0)
        if self.workers and find_spec("grain") is None:
            raise missing_framework("grain, which runs workers,", "lab", ModuleNotFoundError(name="grain"))
        self._train, self._test = (
            BatchMaker(
                source,
                training=training,
                batch_size=batch_size,
                seed=seed,
                augment=augment,
                frames=frames,
                size=size,
                shard=shard,
            )
            for training in (True, False)
        )
        self._streams: dict[bool, Stream] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch of training."""
        return self._train.steps

    @property
    def test_steps(self) -> int:
        """Batches in a pass over the test samples."""
        return self._test.steps

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input: (height, width, channels), or (time, height, width, 2)."""
        return self._train.sample_shape

    def epoch(self, number: int, start: int = 0) -> Batches:
        """Return an iterator over an epoch's training batches.

        Args:
            number: the epoch's, at least 0.
            start: how many batches to leave out; they are not read.

        Raises:
            ValueError: a number below 0, or a start beyond the epoch's end.
        """
        validation.count("number", number, least=0)
        if not 0 <= validation.count("start", start, least=0) <= self.steps_per_epoch:
            raise ValueError(f"start must be at most {self.steps_per_epoch}, the batches of an epoch; got {start}")
        return Batches(self._train, self._stream(self._train), number, start)

    def test(self) -> Batches:
        """Return an iterator over all test samples, in order, as batches; the last may be smaller."""
        return Batches(self._test, self._stream(self._test), 0, 0)

    def close(self) -> None:
        """End the worker processes. A loader that is used again starts new ones."""
        for stream in self._streams.values():
            stream.close()

    def __enter__(self) -> Self:
        """Return the loader, which closes at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the worker processes."""
        self.close()

    def _stream(self, maker: BatchMaker) -> Stream | None:
        if not self.workers or (not maker.training and isinstance(maker.split, ArraySplit)):
            return None
        if maker.training not in self._streams:
            size = 4 * self.batch_size * prod(self.sample_shape)
            self._streams[maker.training] = Stream(_Numbered(maker), self.workers, size)
        return self._streams[maker.training]


class Batches(Iterator[Batch]):
    """The batches of an epoch, or of a pass over the test samples, from some step on."""

    def __init__(self, maker: BatchMaker, stream: Stream | None, epoch: int, step: int) -> None:
        self._maker = maker
        self._stream = stream
        self._epoch = epoch
        self._step = step

    @property
    def place(self) -> Place:
        """The epoch's number and the step of the batch that comes next."""
        return Place(self._epoch, self._step)

    def __len__(self) -> int:
        """Return how many batches are left."""
        return self._maker.steps - self._step

    def __iter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        if self._step >= self._maker.steps:
            raise StopIteration
        if self._stream is None:
            batch = self._maker(self._epoch, self._step)
        else:
            # the steps of all epochs in a row: the workers go on from one to the next
            batch = self._stream.take(self._epoch * self._maker.steps + self._step)
        self._step += 1
        return batch


class _Numbered:
    """A maker's batches by one number: those of all epochs in a row."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __call__(self, number: int) -> Batch:
        return self._maker(*divmod(number, self._maker.steps))
