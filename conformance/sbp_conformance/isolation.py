"""Runs each backend in a process of its own and gathers what came of it, however it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sbp_conformance.backends import environment
from sbp_conformance.results import BackendRun, Outcome, Status
from sbp_conformance.run import Selection

_TAIL = 15

# the cases are tiny: threads cost more than they give, and several backends run side by side
_QUIET = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run_isolated(
    names: Sequence[str],
    selection: Selection,
    *,
    jobs: int,
    timeout: float,
    report: Callable[[BackendRun], None] = lambda run: None,
) -> list[BackendRun]:
    """Run every backend, ``jobs`` at a time, and return their runs in the order of ``names``.

    Args:
        names: as ``--backend`` takes them.
        selection: what to run.
        jobs: processes at a time.
        timeout: seconds that one backend may take.
        report: called with each run as it ends.
    """

    def run(name: str) -> BackendRun:
        found = _run_one(name, selection, timeout)
        report(found)
        return found

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(run, names))


def _run_one(name: str, selection: Selection, timeout: float) -> BackendRun:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sbp-conformance-") as folder:
        events, log = Path(folder) / "events.jsonl", Path(folder) / "log.txt"
        request = json.dumps({"backend": name, "selection": asdict(selection)})
        timed_out = False
        with log.open("w") as stream:
            try:
                code = subprocess.run(
                    [sys.executable, "-m", "sbp_conformance.worker", request, str(events)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=_QUIET | os.environ | environment(name),
                    timeout=timeout,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code, timed_out = -1, True
        told = _read(events)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
    return _gather(name, told, code=code, timed_out=timed_out, tail=tail, seconds=time.perf_counter() - start)


def _gather(
    name: str, events: Iterable[dict[str, Any]], *, code: int, timed_out: bool, tail: str, seconds: float
) -> BackendRun:
    """Tell from a worker's events, and from how its process ended, how the run went."""
    outcomes, versions, last, ended = [], {}, "while it was loaded", False
    for event in events:
        if event["event"] == "unavailable":
            status: Status = "not installed" if event["missing"] else "failed to load"
            return BackendRun(backend=name, status=status, detail=event["detail"], seconds=seconds)
        if event["event"] == "loaded":
            versions, last = event["versions"], "before the first case"
        elif event["event"] == "start":
            last = f"in {event['case']} {event['mode']} {event['dtype']}"
        elif event["event"] == "outcome":
            outcomes.append(Outcome.from_dict(event["outcome"]))
        ended = ended or event["event"] == "end"
    found = BackendRun(backend=name, versions=versions, seconds=seconds, outcomes=tuple(outcomes))
    if ended:
        return found
    how: Status = "timed out" if timed_out else "crashed"
    detail = f"{last}, after {seconds:.0f} s" if timed_out else f"{last}, exit status {code}\n{tail}"
    return replace(found, status=how, detail=detail.rstrip())


def _read(events: Path) -> list[dict[str, Any]]:
    if not events.exists():
        return []
    told = []
    for line in events.read_text(encoding="utf-8").splitlines():
        try:
            told.append(json.loads(line))
        except json.JSONDecodeError:  # the line that a crash cut short
            break
    return told
