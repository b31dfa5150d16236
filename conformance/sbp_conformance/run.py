"""Runs a selection of the cases on one backend, in this process."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, cast

from sbp_conformance.levels import Case, cases_of, default_levels
from sbp_conformance.precision import DTYPES
from sbp_conformance.results import Finding, Outcome
from sbp_core.backend import Backend, Mode

MODES: tuple[Mode, ...] = ("eager", "compiled", "vmapped")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to run; None is everything.

    Attributes:
        levels: names of levels.
        cases: names of cases, or shell patterns.
        modes: eager, compiled, vmapped.
        dtypes: names of dtypes.
        examples: how many neurons the random level makes up, others in every run; None for the few that are always the
            same.
    """

    levels: Sequence[str] | None = None
    cases: Sequence[str] | None = None
    modes: Sequence[str] | None = None
    dtypes: Sequence[str] | None = None
    examples: int | None = None


class Check(NamedTuple):
    """A case to run in a mode and a dtype."""

    case: Case
    mode: Mode
    dtype: str


def matching(selection: Selection) -> list[Case]:
    """Return the cases that ``selection`` names, level by level.

    Raises:
        ValueError: there is no such level.
    """
    levels = default_levels() if selection.levels is None else selection.levels
    found = [case for level in levels for case in cases_of(level) if _named(case, selection.cases)]
    examples = selection.examples
    return found if examples is None else [case.with_examples(examples) for case in found]


def select(backend: Backend, selection: Selection) -> list[Check]:
    """Return the checks of ``selection`` that ``backend`` declares it can do.

    Raises:
        ValueError: there is no such level.
    """
    wanted = matching(selection)
    modes = [mode for mode in MODES if mode in backend.modes and mode in (selection.modes or MODES)]
    dtypes = [dtype for dtype in DTYPES if dtype in backend.dtypes and dtype in (selection.dtypes or DTYPES)]
    return [
        Check(case, mode, dtype)
        for mode in modes
        for case in wanted
        if case.supports(backend)
        for dtype in dtypes
        if dtype in case.dtypes_in(mode, named=selection.cases is not None)
    ]


def _named(case: Case, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(case.name, pattern) for pattern in patterns)


def not_offered(backend: Backend, selection: Selection) -> list[str]:
    """Return the levels of ``selection`` that ``backend`` has no part in: networks, say, are no duty."""
    cases = matching(selection)
    offered = {case.level for case in cases if case.supports(backend)}
    return [level for level in dict.fromkeys(case.level for case in cases) if level not in offered]


def run_check(backend: Backend, check: Check) -> Outcome:
    """Run one check; whatever the backend raises becomes its result."""
    case, mode, dtype = check
    start = time.perf_counter()
    try:
        findings = case.run(backend, dtype=dtype, mode=mode)
    except Exception as error:
        findings = [Finding(quantity="call", kind="contract", problem=f"raised {_brief(error)}")]
    return Outcome(
        level=case.level,
        case=case.name,
        seed=case.seed,
        mode=mode,
        dtype=dtype,
        seconds=time.perf_counter() - start,
        findings=tuple(findings),
    )


def run_backend(backend: Backend, selection: Selection | None = None) -> Iterator[Outcome]:
    """Run a selection on ``backend``, an outcome at a time.

    Example:
        >>> from sbp_core.reference.backend import make_backend
        >>> outcomes = list(run_backend(make_backend(), Selection(levels=["loss"])))
        >>> all(outcome.passed for outcome in outcomes)
        True
    """
    for check in select(backend, selection or Selection()):
        yield run_check(backend, check)


def undeclared(backend: Backend) -> str | None:
    """Return what is wrong with what a backend declares about itself, None if nothing is."""
    for member, allowed in (("modes", MODES), ("dtypes", DTYPES)):
        declared = cast(object, getattr(backend, member))
        if isinstance(declared, str) or not isinstance(declared, Sequence):
            return f"{member} must be a sequence of names, got {declared!r}"
        for value in declared:
            if value not in allowed:
                return f"{member} must hold {', '.join(map(repr, allowed))}; got {value!r}"
    if not backend.modes or not backend.dtypes:
        return "it declares no mode or no dtype"
    return None


def _brief(error: Exception) -> str:
    """Return type, first lines and place of an error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:500]} ({Path(frame.filename).name}:{frame.lineno})"
