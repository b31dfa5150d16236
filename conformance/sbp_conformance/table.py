"""The terminal's view of the results: a table, then what went wrong, each with the command that repeats it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from sbp_conformance.results import BackendRun, Kind, NotOffered, Outcome, Report

_HEADER = ("backend", "level", "mode", "cases", "gradient float64", "gradient float32", "spikes differing")
_NAMED = 4
_SHOWN = 20


class Row(NamedTuple):
    """A level of a backend in one mode.

    Attributes:
        cases: how many ran.
        good: how many of them did what was expected in every dtype.
        expected: how many of those failed, as expected.
        gradients: worst relative error by dtype, of the dtypes that compared one.
        differing: spikes that differ; None where none were compared.
    """

    level: str
    mode: str
    cases: int
    good: int
    expected: int
    gradients: dict[str, float]
    differing: int | None


def render(report: Report) -> str:
    """Return the whole report as text."""
    parts = [table(report.runs)]
    for run in report.runs:
        parts += failures(run)
        parts += remarks(run)
    if report.stale:
        parts.append("\n".join(["expected failures that match no check:", *(f"    {name}" for name in report.stale)]))
    return "\n\n".join([*parts, summary(report)])


def table(runs: Sequence[BackendRun]) -> str:
    """Return a line for each backend, level and mode; the gradient columns hold the worst relative error."""
    lines = [_HEADER, *(line for run in runs for line in _lines(run))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def rows(outcomes: Iterable[Outcome]) -> Iterator[Row]:
    """Yield a row for each mode and level, in the order in which they ran."""

    def key(outcome: Outcome) -> tuple[str, str]:
        return outcome.mode, outcome.level

    for (mode, level), group in groupby(outcomes, key):
        found = list(group)
        names = {outcome.case for outcome in found}
        bad = {outcome.case for outcome in found if not outcome.good}
        worst = {
            dtype: _worst([o for o in found if o.dtype == dtype], "gradient")
            for dtype in dict.fromkeys(o.dtype for o in found)
        }
        yield Row(
            level,
            mode,
            len(names),
            len(names) - len(bad),
            len({outcome.case for outcome in found if outcome.verdict == "failed as expected"} - bad),
            {dtype: error for dtype, error in worst.items() if not math.isnan(error)},
            None if math.isnan(_worst(found, "spikes")) else sum(_count(outcome) for outcome in found),
        )


def _lines(run: BackendRun) -> Iterator[tuple[str, ...]]:
    if not run.outcomes:
        yield (run.backend, run.status, *[""] * (len(_HEADER) - 2))
        return
    versions = " ".join([run.backend, *(version for version in list(run.versions.values())[:1])])
    for row in rows(run.outcomes):
        errors = (row.gradients.get(dtype) for dtype in ("float64", "float32"))
        yield (
            versions,
            row.level,
            row.mode,
            f"{row.good}/{row.cases}",
            *("" if error is None else f"{error:.1e}" for error in errors),
            "" if row.differing is None else f"{row.differing}",
        )


def _worst(outcomes: Iterable[Outcome], kind: Kind) -> float:
    errors = [outcome.worst(kind) for outcome in outcomes]
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def _count(outcome: Outcome) -> int:
    return round(sum(finding.error for finding in outcome.findings if finding.kind == "spikes"))


def failures(run: BackendRun) -> Iterator[str]:
    """Yield what went wrong with a backend as a whole, then each check that did not do what was expected of it."""
    if run.status != "ran":
        yield f"{run.backend}: {run.status}: {run.detail}"
    elif not run.outcomes and not run.not_offered:
        yield f"{run.backend}: no case ran: the selection names none"
    elif not run.outcomes:
        yield f"{run.backend}: no case ran: it offers nothing of the selection"
    failed = run.of("failed")
    for outcome in failed[:_SHOWN]:
        lines = [f"FAILED {run.backend} {_of(outcome)}"]
        lines += ["    " + problem.replace("\n", "\n    ") for problem in outcome.problems]
        yield "\n".join([*lines, f"    repeat: {command(run.backend, outcome)}"])
    if len(failed) > _SHOWN:
        yield f"... and {len(failed) - _SHOWN} more checks of {run.backend} that failed; --json and --html hold all"
    for outcome in run.of("passed unexpectedly"):
        lines = [f"PASSED UNEXPECTEDLY {run.backend} {_of(outcome)}", f"    expected to fail: {outcome.expected}"]
        yield "\n".join([*lines, f"    repeat: {command(run.backend, outcome)}"])


def remarks(run: BackendRun) -> Iterator[str]:
    """Yield which checks failed as expected, and what the backend does not offer."""
    expected = run.of("failed as expected")
    if expected:
        lines = [f"failed as expected, {run.backend}:"]
        yield "\n".join([*lines, *(f"    {outcome.id}: {outcome.expected}" for outcome in expected)])
    if run.not_offered:
        lines = [f"not offered by {run.backend}:"]
        yield "\n".join([*lines, *(f"    {lacking(lack)}" for lack in run.not_offered)])


def lacking(lack: NotOffered) -> str:
    """Return what is not offered, in a line."""
    checks = f"{len(lack.checks)} check{'s' if len(lack.checks) > 1 else ''}"
    if lack.kind in ("mode", "dtype"):  # nearly every case has such a check
        return f"{lack.kind} {lack.name}: {checks}"
    some = f"{', '.join(lack.cases[:_NAMED])}{' ...' * (len(lack.cases) > _NAMED)}"
    return f"{lack.kind} {lack.name}: {checks}: {some}"


def _of(outcome: Outcome) -> str:
    return f"{outcome.case} {outcome.mode} {outcome.dtype} (seed {outcome.seed})"


def command(backend: str, outcome: Outcome) -> str:
    """Return the command that runs one check again."""
    words = ["python", "-m", "sbp_conformance", "--backend", backend, "--case", outcome.case]
    return shlex.join([*words, "--mode", outcome.mode, "--dtype", outcome.dtype])


def summary(report: Report) -> str:
    """Return the last line."""
    outcomes = [outcome for run in report.runs for outcome in run.outcomes]
    passed = sum(outcome.verdict == "passed" for outcome in outcomes)
    expected = sum(outcome.verdict == "failed as expected" for outcome in outcomes)
    skipped = sum(len(lack.checks) for run in report.runs for lack in run.not_offered)
    broken = [run.backend for run in report.runs if not run.passed and run.status != "not installed"]
    absent = [run.backend for run in report.runs if run.status == "not installed"]
    return "; ".join(
        [
            f"{passed} of {len(outcomes)} checks passed",
            *([f"{expected} failed as expected"] if expected else []),
            *([f"{skipped} not offered"] if skipped else []),
            *([f"failed: {', '.join(broken)}"] if broken else []),
            *([f"not installed: {', '.join(absent)}"] if absent else []),
            *([f"expected failures that match no check: {len(report.stale)}"] if report.stale else []),
        ]
    )
