"""Runs each backend in a process of its own and gathers what came of it, however it ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sbp_conformance.backends import environment
from sbp_conformance.results import BackendRun, Finding, NotOffered, Outcome, Status
from sbp_conformance.run import Selection

_TAIL = 15
_POLL = 0.1

#: Checks that may take their process down before the rest is given up.
CRASHES = 5

# the cases are tiny: threads cost more than they give, and several backends run side by side
_QUIET = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to wait, in seconds.

    Attributes:
        backend: for a backend, all its checks together.
        check: for one check, or for a backend to load.
    """

    backend: float = 900.0
    check: float = 300.0


@dataclass(kw_only=True)
class Gathered:
    """What a backend's processes told, one after the other.

    Attributes:
        run: what came of it so far.
        offered: every check that the backend offers, selected or not.
    """

    run: BackendRun
    offered: tuple[str, ...] = ()
    _pending: Outcome | None = field(default=None, repr=False)
    _loaded: bool = field(default=False, repr=False)

    def hear(self, event: Mapping[str, Any]) -> bool:
        """Take in an event; say whether it was the last."""
        kind = event["event"]
        if kind == "unavailable":
            status: Status = "not installed" if event["missing"] else "failed to load"
            self.run = replace(self.run, status=status, detail=event["detail"])
        elif kind == "loaded":
            lacks = tuple(NotOffered.from_dict(lack) for lack in event["not_offered"])
            self.run = replace(self.run, versions=event["versions"], not_offered=lacks)
            self.offered, self._loaded = tuple(event["offered"]), True
        elif kind == "start":
            self._pending = Outcome.from_dict(event["outcome"])
        elif kind == "outcome":
            self._add(Outcome.from_dict(event["outcome"]))
        return kind in ("unavailable", "end")

    def break_off(self, status: Status, how: str) -> bool:
        """Note that a process ended before its last event; say whether another can go on where it broke off."""
        if self._pending is not None:
            problem = Finding(quantity="process", kind="contract", error=math.inf, problem=f"{status}: {how}")
            self._add(replace(self._pending, findings=(problem,)))
            return True
        where = "before the first check" if self._loaded else "while it was loaded"
        self.run = replace(self.run, status=status, detail=f"{where}, {how}")
        return False

    def give_up(self, status: Status, detail: str) -> None:
        """Note that what was left was not run."""
        self.run = replace(self.run, status=status, detail=detail)

    def _add(self, outcome: Outcome) -> None:
        self.run, self._pending = self.run.with_outcome(outcome), None


def run_isolated(
    names: Sequence[str],
    selection: Selection,
    *,
    jobs: int,
    limits: Limits,
    report: Callable[[BackendRun], None] = lambda run: None,
) -> list[Gathered]:
    """Run every backend, ``jobs`` at a time, and return what came of them in the order of ``names``.

    Args:
        names: as ``--backend`` takes them.
        selection: what to run.
        jobs: processes at a time.
        limits: how long to wait.
        report: called with each run as it ends.
    """
    stop = threading.Event()

    def run(name: str) -> Gathered:
        found = _run_one(name, selection, limits, stop, _shared(Path(compiled)))
        report(found.run)
        return found

    with tempfile.TemporaryDirectory(prefix="sbp-compiled-") as compiled, ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            return list(pool.map(run, names))
        except BaseException:  # Ctrl-C: the processes have a session of their own and do not hear it
            stop.set()
            raise


def child_environment(name: str) -> dict[str, str]:
    """Return the environment variables of a process that runs the backend called ``name``."""
    return _QUIET | os.environ | environment(name)


def _shared(folder: Path) -> dict[str, str]:
    """Return the environment variables by which JAX keeps what it compiles, which is most of its time.

    Two backends on JAX compile many of the same operations. A folder that the caller has set is left to be.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _run_one(
    name: str, selection: Selection, limits: Limits, stop: threading.Event, settings: dict[str, str]
) -> Gathered:
    start = time.perf_counter()
    gathered, crashes = Gathered(run=BackendRun(backend=name)), 0
    while not stop.is_set():
        left = limits.backend - (time.perf_counter() - start)
        ended = _one_process(name, selection, gathered, replace(limits, backend=left), stop, settings)
        if ended is None:
            break
        status, how = ended
        crashes += 1
        if not gathered.break_off(status, how):
            break
        if time.perf_counter() - start >= limits.backend:
            gathered.give_up("timed out", f"after {limits.backend:g} s; the checks that were left did not run")
            break
        if crashes == CRASHES:
            gathered.give_up(status, f"{crashes} checks took their process down; the rest did not run")
            break
    gathered.run = replace(gathered.run, seconds=time.perf_counter() - start)
    return gathered


def _one_process(
    name: str,
    selection: Selection,
    gathered: Gathered,
    limits: Limits,
    stop: threading.Event,
    settings: dict[str, str],
) -> tuple[Status, str] | None:
    """Run what is left in one process; return how it broke off, None if it came to its end."""
    declined = [check for lack in gathered.run.not_offered if lack.kind == "declined" for check in lack.checks]
    done = [*(outcome.id for outcome in gathered.run.outcomes), *declined]
    request = json.dumps({"backend": name, "selection": asdict(selection), "done": done})
    with tempfile.TemporaryDirectory(prefix="sbp-conformance-") as folder, contextlib.ExitStack() as stack:
        events, log = Path(folder) / "events.jsonl", Path(folder) / "log.txt"
        events.touch()
        output, told = stack.enter_context(log.open("w")), stack.enter_context(events.open(encoding="utf-8"))
        process = subprocess.Popen(
            [sys.executable, "-m", "sbp_conformance.worker", request, str(events)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=settings | child_environment(name),
            start_new_session=True,
        )
        stack.callback(_end, process)
        lines, start = _lines(told), time.perf_counter()
        heard = start
        while True:
            code = process.poll()  # asked first: what it wrote before it ended is then read below
            for event in lines():
                heard = time.perf_counter()
                if gathered.hear(event):
                    return None
            if code is not None:
                return "crashed", f"{_cause(code)}{_tail(log)}"
            now = time.perf_counter()
            if now - start > limits.backend or now - heard > limits.check:
                waited = min(now - heard, now - start)
                return "timed out", f"no answer for {waited:.0f} s{_tail(log)}"
            if stop.wait(_POLL):
                return "crashed", "interrupted"


def _lines(stream: Any) -> Callable[[], Iterator[dict[str, Any]]]:
    """Return a function that yields the events written since it was last called."""
    rest = ""

    def new() -> Iterator[dict[str, Any]]:
        nonlocal rest
        *whole, rest = (rest + stream.read()).split("\n")
        yield from (json.loads(line) for line in whole)

    return new


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it has not ended, and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
    return "".join(f"\n{line}" for line in lines)
