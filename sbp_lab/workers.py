"""Batches made ahead of time by worker processes, through grain."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

import numpy as np

from sbp_lab.batches import Batch, SampleError

SHARED_MEMORY = Path("/dev/shm")

#: Seconds that a worker lives on when it is asked to end: in them the main process ends it in order.
PATIENCE = 30.0

#: Batches that each worker has ready, as long as there is room.
AHEAD = 2


class Stream:
    """Batches 0, 1, 2, ... without an end, made by ``workers`` processes in turn.

    The processes start with the first batch and live until :meth:`close`. They end with this one, however it ends; the
    terminal's Ctrl-C, or a SIGTERM to the whole group, leaves the end to the main process.

    Args:
        make: returns batch n; pickled for the workers.
        workers: number of processes, at least 1.
        batch_bytes: bytes of a batch, for which there must be room in shared memory.
    """

    def __init__(self, make: Callable[[int], Batch], workers: int, batch_bytes: int) -> None:
        self._make = make
        self._workers = workers
        self._batch_bytes = batch_bytes
        self._open: list[_Reader] = []
        weakref.finalize(self, _close, self._open).atexit = False

    def take(self, number: int) -> Batch:
        """Return batch ``number``. The one after the last taken is ready soonest; at any other the workers start anew.

        Raises:
            SampleError: a worker could not make it.
            RuntimeError: no room in shared memory, or a worker ended.
        """
        try:
            if self._open and self._open[0].next != number:
                self.close()
            if not self._open:
                self._start(number)
            return self._open[0].take()
        except SampleError as error:
            self.close()
            raised = SampleError(str(error))
            raised.__notes__ = [note for note in getattr(error, "__notes__", ()) if "Grain" not in note]
            raise raised from None
        except BaseException as error:
            self.close()
            if isinstance(error, RuntimeError) and "terminated unexpectedly" in str(error):
                raise _died(error, self._workers) from error
            raise

    def close(self) -> None:
        """End the workers."""
        _close(self._open)

    def _start(self, number: int) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                'a Loader with workers must be used under `if __name__ == "__main__":`: each worker runs the script '
                "anew, without what is under it"
            )
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            # grain asks absl for options of a command line that is not absl's
            flags.FLAGS.mark_as_parsed()
        dataset = (
            grain.MapDataset.source(_Numbers(number))
            .map(_Noted(self._make))
            .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
            .mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=_ahead(self._batch_bytes, self._workers)
                ),
                worker_init_fn=_prepare,
            )
        )
        # at exit before grain and multiprocessing, which were imported earlier, end themselves
        atexit.register(_close, self._open)
        # threads and processes inherit the mask of whoever starts them: no moment at which a signal ends a worker
        masked = hasattr(signal, "pthread_sigmask")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}) if masked else set()
        try:
            iterator = iter(dataset)
            iterator.get_state()
            iterator.start_prefetch()
            self._open.append(_Reader(iterator, number))
        finally:
            if masked:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Reader:
    """Takes batches out of shared memory in a thread of its own, one ahead.

    Ctrl-C is raised in the main thread, wherever that is: in the middle of taking a batch it would leave memory that
    nobody frees, in what frees memory Python would drop it.

    Args:
        iterator: grain's, started.
        first: number of its first batch.

    Attributes:
        next: number of the batch that :meth:`take` returns; None where it is not known any more.
    """

    def __init__(self, iterator: Any, first: int) -> None:
        self.next: int | None = first
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._given: SimpleQueue[Batch | BaseException] = SimpleQueue()
        self._thread = threading.Thread(target=_read, args=(iterator, self._asked, self._given), daemon=True)
        self._thread.start()
        self._asked.put(True)

    def take(self) -> Batch:
        """Return the next batch, or raise what making it raised."""
        number, self.next = self.next, None
        given = self._given.get()
        if isinstance(given, BaseException):
            raise given
        self._asked.put(True)
        self.next = None if number is None else number + 1
        return given

    def close(self) -> None:
        """End the workers, and free what they have made."""
        self._asked.put(False)
        self._thread.join()


def _read(iterator: Any, asked: SimpleQueue[bool], given: SimpleQueue[Batch | BaseException]) -> None:
    while asked.get():
        try:
            given.put(_copied(next(iterator)))
        except BaseException as error:
            given.put(error)
    iterator.close()
    # the batches that nobody took are gone now; grain frees their memory in a thread, which has done so when it answers
    pool = _freeing()
    if pool is not None:
        with contextlib.suppress(ValueError):
            pool.apply(int)


def _copied(batch: Batch) -> Batch:
    # grain's arrays lie in shared memory that goes when they go, whoever still has a view
    return np.array(batch[0]), np.array(batch[1])


class _Noted:
    """``make`` with its errors' tracebacks as notes: of an error, type, message and notes come through a pipe."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __call__(self, number: int) -> Batch:
        try:
            return self._make(number)
        except SampleError as error:
            error.add_note("".join(traceback.format_exception(error.__cause__ or error)))
            raise


class _Numbers:
    """All whole numbers from ``first`` on, as a source of grain's."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> int:
        return self._first + int(index)


def _prepare(index: int, count: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    # who asks a whole group to end asks the main process, which ends its workers when it has what they made
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_later(number: int, frame: FrameType | None) -> None:
    timer = threading.Timer(PATIENCE, os._exit, [128 + number])
    timer.daemon = True
    timer.start()


def end_with_parent() -> None:
    """End this process, which another spawned, when that one ends: for a thread."""
    # a parent that is killed ends nobody: the other end of the pipe that it holds open closes
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ahead(batch_bytes: int, workers: int) -> int:
    """Return how many batches each worker keeps ready.

    Raises:
        RuntimeError: shared memory has no room for one.
    """
    if not SHARED_MEMORY.exists():
        return AHEAD
    free = shutil.disk_usage(SHARED_MEMORY).free
    for ahead in range(AHEAD, 0, -1):
        # as many again lie in the main process's own queue, one is being written and one read
        if (2 * ahead + 2) * workers * batch_bytes <= free:
            return ahead
    raise RuntimeError(
        f"workers must be fewer, or batch_size smaller: {workers} workers with batches of {batch_bytes >> 20} MB need "
        f"{4 * workers * batch_bytes >> 20} MB of shared memory, and {SHARED_MEMORY} has {free >> 20} MB (in Docker: "
        "--shm-size). workers=0 needs none"
    )


def _died(error: RuntimeError, workers: int) -> RuntimeError:
    room = f"; {SHARED_MEMORY} has {shutil.disk_usage(SHARED_MEMORY).free >> 20} MB" if SHARED_MEMORY.exists() else ""
    return RuntimeError(
        f"one of the loader's {workers} workers ended ({str(error).partition('. ')[0]}). Exit code 1: its error is "
        'printed above; a script that makes a Loader with workers must do so under `if __name__ == "__main__":`. '
        f"-9: the system was out of memory. -7: shared memory was full{room}"
    )


def _close(readers: list[_Reader]) -> None:
    while readers:
        readers[-1].close()
        readers.pop()


def _freeing() -> ThreadPool | None:
    from grain.multiprocessing import SharedMemoryArray

    pool = getattr(SharedMemoryArray, "_del_thread_pool", None)
    return pool if isinstance(pool, ThreadPool) else None
