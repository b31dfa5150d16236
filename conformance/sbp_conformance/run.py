"""Runs a selection of the cases on one backend, in this process."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, cast, get_args

from sbp_conformance.levels import Case, cases_of, default_levels
from sbp_conformance.precision import DTYPES
from sbp_conformance.results import Finding, NotOffered, Outcome
from sbp_conformance.watch import Watched
from sbp_core import backend as contract
from sbp_core.backend import Backend, Mode

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to run; None is everything.

    Attributes:
        levels: names of levels.
        cases: names of cases, or shell patterns.
        modes: names of modes.
        dtypes: names of dtypes.
        examples: how many neurons the random level makes up, others in every run; None for the few that are always the
            same.
        every: run one in so many cases of each level, a sample; 1 is all.
    """

    levels: Sequence[str] | None = None
    cases: Sequence[str] | None = None
    modes: Sequence[str] | None = None
    dtypes: Sequence[str] | None = None
    examples: int | None = None
    every: int = 1


class Check(NamedTuple):
    """A case to run in a mode and a dtype."""

    case: Case
    mode: Mode
    dtype: str

    @property
    def id(self) -> str:
        """``case/mode/dtype``."""
        return f"{self.case.name}/{self.mode}/{self.dtype}"


class Plan(NamedTuple):
    """What of a selection a backend is held to, and what it does not offer."""

    checks: list[Check]
    not_offered: tuple[NotOffered, ...]


def matching(selection: Selection) -> list[Case]:
    """Return the cases that ``selection`` names, level by level.

    Raises:
        ValueError: there is no such level.
    """
    levels = default_levels() if selection.levels is None else selection.levels
    found = [
        case
        for level in levels
        for case in [case for case in cases_of(level) if _named(case, selection.cases)][:: selection.every]
    ]
    examples = selection.examples
    return found if examples is None else [case.with_examples(examples) for case in found]


def unmatched(selection: Selection) -> Iterator[str]:
    """Yield a line for each pattern of cases that names none of the levels selected, with names that are near."""
    levels = default_levels() if selection.levels is None else selection.levels
    names = [case.name for level in levels for case in cases_of(level)]
    for pattern in selection.cases or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, names, n=3, cutoff=0.5)
            told = f"did you mean {', '.join(near)}?" if near else "--list names them all"
            yield f"no case is called {pattern!r} in {', '.join(levels)}; {told}"


def plan(backend: Backend, selection: Selection) -> Plan:
    """Return the checks of ``selection`` that ``backend`` declares it can do, and those that it cannot, by reason.

    Raises:
        ValueError: there is no such level.
    """
    checks: list[Check] = []
    lacking: dict[tuple[str, str], list[str]] = {}
    for check in _wanted(selection):
        lack = _lack(backend, check)
        if lack is None:
            checks.append(check)
        else:
            lacking.setdefault(lack, []).append(check.id)
    not_offered = [
        NotOffered.from_dict({"kind": kind, "name": name, "checks": ids}) for (kind, name), ids in lacking.items()
    ]
    return Plan(checks, tuple(not_offered))


def select(backend: Backend, selection: Selection) -> list[Check]:
    """Return the checks of :func:`plan`.

    Raises:
        ValueError: there is no such level.
    """
    return plan(backend, selection).checks


def _wanted(selection: Selection) -> Iterator[Check]:
    wanted = matching(selection)
    for mode in MODES:
        if mode not in (selection.modes or MODES):
            continue
        for case in wanted:
            allowed = case.dtypes_in(mode, named=selection.cases is not None)
            for dtype in DTYPES:
                if dtype in allowed and dtype in (selection.dtypes or DTYPES):
                    yield Check(case, mode, dtype)


def _lack(backend: Backend, check: Check) -> tuple[str, str] | None:
    """Return what a backend lacks for a check, its kind and its name; None if nothing."""
    for member in check.case.needs:
        if not callable(getattr(backend, member, None)):
            return "member", member
    if check.mode not in backend.modes:
        return "mode", check.mode
    return None if check.dtype in backend.dtypes else ("dtype", check.dtype)


def _named(case: Case, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(case.name, pattern) for pattern in patterns)


def run_check(backend: Backend, check: Check) -> Outcome:
    """Run one check; whatever the backend raises becomes its result, and what it declines is not held against it."""
    case, mode, dtype = check
    start, watched = time.perf_counter(), Watched(backend)
    try:
        findings = [*case.run(cast(Backend, watched), dtype=dtype, mode=mode), *watched.findings()]
    except contract.NotOffered as declined:
        declined_outcome = outcome_of(check, (), seconds=time.perf_counter() - start)
        return replace(declined_outcome, declined=str(declined) or "not said what")
    except (Exception, SystemExit) as error:  # a backend may call sys.exit; Ctrl-C still stops the run
        findings = [Finding(quantity="call", kind="contract", problem=f"raised {_brief(error)}"), *watched.findings()]
    return outcome_of(check, findings, seconds=time.perf_counter() - start)


def outcome_of(check: Check, findings: Sequence[Finding], *, seconds: float) -> Outcome:
    """Return the outcome of a check that gave ``findings``."""
    return Outcome(
        level=check.case.level,
        case=check.case.name,
        seed=check.case.seed,
        mode=check.mode,
        dtype=check.dtype,
        seconds=seconds,
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
    if not isinstance(cast(object, backend.versions), Mapping):
        return f"versions must be a mapping of package to version, got {backend.versions!r}"
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


def _brief(error: BaseException) -> str:
    """Return type, first lines and place of an error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:500]} ({Path(frame.filename).name}:{frame.lineno})"
