"""Runs a comparison, several runs at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache, partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

from sbp_lab import trainers
from sbp_lab.data import Source, open_data
from sbp_lab.recipe import Recipe
from sbp_lab.record import Epoch, Run
from sbp_lab.results import Cell, Plan
from sbp_lab.trainers import NotFiniteError
from sbp_lab.training import DamagedError, EpochDone, Event, LockedError, checkpoint, train
from sbp_lab.workers import end_with_parent

OnEpoch = Callable[[Cell, Epoch], None]


class Failed(NamedTuple):
    """A run that could not be ended, for a reason that need not hold for others: a full disk, an infinite loss."""

    reason: str


_events: Queue[tuple[Cell, Epoch]] | None = None


def run_all(
    plan: Plan,
    cells: Sequence[Cell],
    folder: Path,
    *,
    data_folder: Path,
    jobs: int,
    on_epoch: OnEpoch,
    keep_checkpoints: bool = False,
) -> Generator[tuple[Cell, Run | Failed], None, None]:
    """Train every cell, each in a folder of its own below ``folder``, and yield the runs as they finish.

    With more than one job each run has a process with one thread of its own: the arrays are small, and two runs side
    by side take far less time than two threads in one. Closing the iterator, or an interrupt, ends the processes; they
    end by themselves when this one does, however it does. What a run has written when it ends before its time, it goes
    on from; one that fails does not stop the others.

    Args:
        plan: what the cells are of.
        cells: what to run; one seed after the other, so that an interrupt leaves whole seeds.
        folder: of the comparison.
        data_folder: what data lies in.
        jobs: how many at a time.
        on_epoch: called after each epoch of any run with its cell and its record.
        keep_checkpoints: whether a run that is complete keeps them, thrice the size of its weights or more.
    """
    ordered = sorted(cells, key=lambda cell: plan.seeds.index(cell.seed))
    if jobs == 1:
        for cell in ordered:
            place = folder / cell.folder
            yield cell, _train(plan.recipe_of(cell), place, data_folder, keep_checkpoints, partial(on_epoch, cell))
    elif ordered:
        yield from _run_in_processes(plan, ordered, folder, data_folder, jobs, on_epoch, keep_checkpoints)


def _run_in_processes(
    plan: Plan,
    cells: Sequence[Cell],
    folder: Path,
    data_folder: Path,
    jobs: int,
    on_epoch: OnEpoch,
    keep_checkpoints: bool,
) -> Generator[tuple[Cell, Run | Failed], None, None]:
    context = multiprocessing.get_context("spawn")
    events: Queue[Any] = context.Queue()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        max_workers=min(jobs, len(cells)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(plan.recipe.backend, events),
    )
    # not concurrent.futures.wait: an interrupt in the middle of it leaves the futures' locks held
    done: queue.SimpleQueue[Future[tuple[Cell, Run | Failed]]] = queue.SimpleQueue()
    finished = False
    try:
        for cell in cells:
            place = folder / cell.folder
            future = pool.submit(_work, cell, plan.recipe_of(cell), place, data_folder, keep_checkpoints)
            future.add_done_callback(done.put)
        left = len(cells)
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


def _report(events: Queue[Any], on_epoch: OnEpoch) -> None:
    while True:
        try:
            event = events.get_nowait()
        except queue.Empty:
            return
        on_epoch(*event)


def _start_worker(backend: str, events: Queue[Any]) -> None:
    global _events
    _events = events
    threading.Thread(target=end_with_parent, daemon=True).start()
    # the parent alone answers Ctrl-C, and ends the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    trainers.load(backend).limit_threads()


def _work(
    cell: Cell, recipe: Recipe, folder: Path, data_folder: Path, keep_checkpoints: bool
) -> tuple[Cell, Run | Failed]:
    events = _events
    if events is None:
        raise RuntimeError("_work must run in a process that _start_worker has prepared")
    try:
        return cell, _train(recipe, folder, data_folder, keep_checkpoints, lambda epoch: events.put((cell, epoch)))
    except KeyboardInterrupt:
        # not the next one from the queue: whoever asked this run to stop means all
        os._exit(1)


def _train(
    recipe: Recipe, folder: Path, data_folder: Path, keep_checkpoints: bool, on_epoch: Callable[[Epoch], None]
) -> Run | Failed:
    resume = folder.is_dir() and any(folder.iterdir())
    source = _source(recipe.data, data_folder)

    def on_event(event: Event) -> None:
        if isinstance(event, EpochDone):
            on_epoch(event.epoch)

    try:
        run = train(recipe, folder, source=source, resume=resume, on_event=on_event)
        if not keep_checkpoints:
            checkpoint.remove(folder)
        return run
    except (OSError, NotFiniteError, LockedError, DamagedError) as error:
        return Failed(str(error))


@cache
def _source(name: str, folder: Path) -> Source:
    return open_data(name, folder)
