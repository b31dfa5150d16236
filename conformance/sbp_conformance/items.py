"""The suite as pytest items: a test for each check, made by :mod:`sbp_conformance.plugin`.

For each backend: ``loads``, its checks by level, and a skip for each thing that it does not offer. It runs in pytest's
own process. An expected failure is a strict xfail; an entry of that file that matches no check is a failing test.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sbp_conformance.backends import environment
from sbp_conformance.expected import ExpectedFailures
from sbp_conformance.levels import LEVELS
from sbp_conformance.precision import DTYPES
from sbp_conformance.run import MODES, Check, Selection, matching, plan, run_check
from sbp_conformance.table import command, lacking
from sbp_conformance.worker import load
from sbp_core.backend import Backend


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    backends: tuple[str, ...]
    selection: Selection
    expected: ExpectedFailures

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Return the options.

        Raises:
            pytest.UsageError: one that names nothing, or a file of expected failures that is none.
        """
        file = config.getoption("sbp_expected_failures")
        try:
            expected = (
                ExpectedFailures() if file is None else ExpectedFailures.read(config.invocation_params.dir / file)
            )
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--sbp-expected-failures: {error}") from None
        selection = Selection(
            levels=_strings(config, "level", tuple(LEVELS)) or None,
            cases=_strings(config, "case") or None,
            modes=_strings(config, "mode", MODES) or None,
            dtypes=_strings(config, "dtype", DTYPES) or None,
        )
        try:
            matching(selection)
        except ModuleNotFoundError as error:
            raise pytest.UsageError(f"--sbp-level: {error}") from None
        return cls(backends=tuple(dict.fromkeys(_strings(config, "backend"))), selection=selection, expected=expected)


class SuiteFile(pytest.File):
    """What pytest finds in place of ``checks.py``: the backends that the command line names."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Yield a collector for each backend, and a test for each expected failure that matches nothing."""
        options = Options.of(self.config)
        offered = {}
        for name in options.backends:
            found = BackendTests.from_parent(self, name=name, options=options)
            offered[name] = found.offered()
            yield found
        # a backend that did not load offers nothing to match
        for entry in options.expected.stale({name: ids for name, ids in offered.items() if ids}):
            yield ConformanceTest.from_parent(
                self, name=f"expected-failures[{entry}]", call=_failing(f"{entry!r} matches no check")
            )


class BackendTests(pytest.Collector):
    """All tests of a backend."""

    def __init__(self, *, options: Options, **given: Any) -> None:
        super().__init__(**given)
        self.options = options
        self.backend: Backend | None = None
        self.error: Exception | SystemExit | None = None
        try:
            with _as_it_comes():
                self.backend = _load(self.name)
        except (Exception, SystemExit) as error:
            self.error = error

    def offered(self) -> list[str]:
        """Return the ids of every check that it offers, selected or not."""
        return [] if self.backend is None else [check.id for check in plan(self.backend, Selection()).checks]

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the tests."""
        yield ConformanceTest.from_parent(self, name="loads", call=self._loads)
        if self.backend is None:
            return
        selected = plan(self.backend, self.options.selection)
        if not selected.checks and not selected.not_offered:
            yield ConformanceTest.from_parent(self, name="selects", call=_failing("the selection names no case"))
        for check in selected.checks:
            test = ConformanceTest.from_parent(
                self,
                name=f"{check.case.name}[{check.mode}-{check.dtype}]",
                call=_holds(self.name, self.backend, check),
            )
            if (reason := self.options.expected.reason(self.name, check.id)) is not None:
                test.add_marker(pytest.mark.xfail(reason=reason, strict=True))
            yield test
        for lack in selected.not_offered:
            told = f"not offered by {self.name}: {lacking(lack)}"
            yield ConformanceTest.from_parent(self, name=f"not-offered[{lack.kind}-{lack.name}]", call=_skipping(told))

    def _loads(self) -> None:
        if self.error is not None:
            raise DisagreementError(f"{type(self.error).__name__}: {self.error}")


class ConformanceTest(pytest.Item):
    """A test that calls a function without arguments; no fixture of a project's touches it."""

    def __init__(self, *, call: Callable[[], None], **given: Any) -> None:
        super().__init__(**given)
        self.call = call

    def runtest(self) -> None:
        """Run it."""
        with _as_it_comes():
            self.call()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what is wrong, without the suite's own frames."""
        if isinstance(excinfo.value, DisagreementError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where it is, for reports."""
        return self.path, None, self.nodeid.partition("::")[2].replace("::", " ")


class DisagreementError(AssertionError):
    """A check that failed."""


def _as_it_comes() -> warnings.catch_warnings[None]:
    # a project may make errors of warnings; a framework's are not what is tested
    return warnings.catch_warnings(action="default")


def _load(name: str) -> Backend:
    for variable, value in environment(name).items():
        already = os.environ.setdefault(variable, value)
        if already != value or ("keras" in sys.modules and sys.modules["keras"].config.backend() != value):
            raise RuntimeError(f"{name} needs {variable}={value}, and a process has one such setting: run it alone")
    return load(name)


def _holds(name: str, backend: Backend, check: Check) -> Callable[[], None]:
    def call() -> None:
        outcome = run_check(backend, check)
        if outcome.declined is not None:
            pytest.skip(f"not offered by {name}: {outcome.declined}")
        if not outcome.passed:
            lines = [f"{name} {check.id} (seed {check.case.seed})", *(f"    {problem}" for problem in outcome.problems)]
            raise DisagreementError("\n".join([*lines, f"    repeat: {command(name, outcome)}"]))

    return call


def _failing(told: str) -> Callable[[], None]:
    def call() -> None:
        raise DisagreementError(told)

    return call


def _skipping(told: str) -> Callable[[], None]:
    def call() -> None:
        pytest.skip(told)

    return call


def _strings(config: pytest.Config, option: str, allowed: Sequence[str] | None = None) -> list[str]:
    given: list[str] = config.getoption(f"sbp_{option}") or []
    for value in given:
        if allowed is not None and value not in allowed:
            raise pytest.UsageError(f"--sbp-{option} must be one of {', '.join(allowed)}; got {value!r}")
    return given
