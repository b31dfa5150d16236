"""Runs the methods of a comparison over its seeds, several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

from sbp_lab import data, trainers
from sbp_lab.results import Comparison
from sbp_lab.training.old import Epoch, Recipe, Run, train

EpochDone = Callable[[str, int, int, Epoch], None]

_events: Queue[tuple[str, int, int, Epoch]] | None = None


def run_all(comparison: Comparison, on_epoch: EpochDone) -> Generator[Run, None, None]:
    """Train every method with every seed and yield the runs as they finish.

    With more than one job each run has a process with one thread of its own: the arrays are small, and two runs side
    by side take far less time than two threads in one. Closing the iterator, or an interrupt, ends the processes; they
    end by themselves when this one does, however it does.

    Args:
        comparison: what to run; ``comparison.jobs`` says how many at a time.
        on_epoch: called after each epoch of any run with the method, the seed, the epoch's number and its record.
    """
    if comparison.jobs == 1:
        dataset = data.load(comparison.recipe.data)
        for method, seed in comparison.pairs():
            yield train(comparison.recipe, method, seed, dataset, on_epoch=partial(on_epoch, method, seed))
        return
    yield from _run_in_processes(comparison, on_epoch)


def _run_in_processes(comparison: Comparison, on_epoch: EpochDone) -> Generator[Run, None, None]:
    context = multiprocessing.get_context("spawn")
    events: Queue[Any] = context.Queue()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        max_workers=min(comparison.jobs, len(comparison.pairs())),
        mp_context=context,
        initializer=_start_worker,
        initargs=(comparison.recipe.backend, events),
    )
    # not concurrent.futures.wait: an interrupt in the middle of it leaves the futures' locks held
    done: queue.SimpleQueue[Future[Run]] = queue.SimpleQueue()
    finished = False
    try:
        for pair in comparison.pairs():
            pool.submit(_work, comparison.recipe, *pair).add_done_callback(done.put)
        left = len(comparison.pairs())
        while left:
            _report(events, on_epoch)
            try:
                future = done.get(timeout=0.2)
            except queue.Empty:
                continue
            left -= 1
            _report(events, on_epoch)
            yield future.result()
        finished = True
    finally:
        if not finished:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _report(events: Queue[Any], on_epoch: EpochDone) -> None:
    while True:
        try:
            event = events.get_nowait()
        except queue.Empty:
            return
        on_epoch(*event)


def _start_worker(backend: str, events: Queue[Any]) -> None:
    global _events
    _events = events
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # the parent alone answers Ctrl-C, and ends the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    trainers.load(backend).limit_threads()


def _end_with_parent() -> None:
    # a parent that is killed ends nobody: the other end of the pipe that it holds open closes
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(recipe: Recipe, method: str, seed: int) -> Run:
    events = _events
    if events is None:
        raise RuntimeError("_work must run in a process that _start_worker has prepared")

    def on_epoch(number: int, epoch: Epoch) -> None:
        events.put((method, seed, number, epoch))

    return train(recipe, method, seed, data.load(recipe.data), on_epoch=on_epoch)
