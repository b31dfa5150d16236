"""The terminal's view of the results: a table, then each failure with the command that repeats it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from sbp_conformance.results import BackendRun, Kind, Outcome

_HEADER = ("backend", "level", "mode", "cases", "gradient float64", "gradient float32", "spikes differing")


def render(runs: Sequence[BackendRun]) -> str:
    """Return the whole report as text."""
    parts = [table(runs), *(part for run in runs for part in failures(run)), summary(runs)]
    return "\n\n".join(part for part in parts if part)


def table(runs: Sequence[BackendRun]) -> str:
    """Return a line for each backend, level and mode; the gradient columns hold the worst relative error."""
    rows = [_HEADER, *(row for run in runs for row in _rows(run))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _rows(run: BackendRun) -> Iterator[tuple[str, ...]]:
    if not run.outcomes:
        yield (run.backend, run.status, *[""] * (len(_HEADER) - 2))
        return
    versions = " ".join([run.backend, *(version for version in list(run.versions.values())[:1])])

    def key(outcome: Outcome) -> tuple[str, str]:
        return outcome.mode, outcome.level

    for (mode, level), group in groupby(run.outcomes, key):
        outcomes = list(group)
        names = {outcome.case for outcome in outcomes}
        failed = {outcome.case for outcome in outcomes if not outcome.passed}
        differing = _worst(outcomes, "spikes")
        yield (
            versions,
            level,
            mode,
            f"{len(names) - len(failed)}/{len(names)}",
            *(
                _error(_worst([o for o in outcomes if o.dtype == dtype], "gradient"))
                for dtype in ("float64", "float32")
            ),
            "" if math.isnan(differing) else f"{sum(_count(outcome) for outcome in outcomes)}",
        )


def _worst(outcomes: Iterable[Outcome], kind: Kind) -> float:
    errors = [outcome.worst(kind) for outcome in outcomes]
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def _count(outcome: Outcome) -> int:
    return round(sum(finding.error for finding in outcome.findings if finding.kind == "spikes"))


def _error(error: float) -> str:
    return "" if math.isnan(error) else f"{error:.1e}"


def failures(run: BackendRun) -> Iterator[str]:
    """Yield what went wrong with a backend as a whole, then each failed check."""
    if run.status != "ran":
        yield f"{run.backend}: {run.status}: {run.detail}"
    elif not run.outcomes:
        yield f"{run.backend}: no case ran: it has no mode or dtype of the selection, or no case has that name"
    for outcome in run.outcomes:
        if outcome.passed:
            continue
        lines = [f"FAILED {run.backend} {outcome.case} {outcome.mode} {outcome.dtype} (seed {outcome.seed})"]
        lines += [f"    {problem}" for problem in outcome.problems]
        yield "\n".join([*lines, f"    repeat: {command(run.backend, outcome)}"])


def command(backend: str, outcome: Outcome) -> str:
    """Return the command that runs one check again."""
    words = ["python", "-m", "sbp_conformance", "--backend", backend, "--case", outcome.case]
    return shlex.join([*words, "--mode", outcome.mode, "--dtype", outcome.dtype])


def summary(runs: Sequence[BackendRun]) -> str:
    """Return the last line."""
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    failed = sum(not outcome.passed for outcome in outcomes)
    counts = f"{len(outcomes) - failed} of {len(outcomes)} checks passed"
    broken = [run.backend for run in runs if not run.passed and run.status != "not installed"]
    absent = [run.backend for run in runs if run.status == "not installed"]
    return "; ".join(
        [
            counts,
            *([f"failed: {', '.join(broken)}"] if broken else []),
            *([f"not installed: {', '.join(absent)}"] if absent else []),
        ]
    )
