"""Results as data: what was compared, what each case gave, and how a backend's run ended. All of it survives JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["spikes", "state", "gradient", "value", "contract"]
Status = Literal["ran", "not installed", "failed to load", "crashed", "timed out"]
Verdict = Literal["passed", "failed", "failed as expected", "passed unexpectedly", "not offered"]

#: Of the JSON file. It rises when a field changes its meaning or goes.
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One quantity compared.

    Attributes:
        quantity: what it is, as "gradient of the input".
        kind: spikes (equal or not), state, gradient, value, or contract (shape, type, dtype, an error raised).
        error: the worst difference over the largest magnitude expected; for spikes, how many differ.
        problem: None if it passed, else what is wrong.
    """

    quantity: str
    kind: Kind
    error: float = 0.0
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one case gave on one backend, in one mode and dtype.

    Attributes:
        expected: why its failure is expected, as the caller's file says; None where it is to pass.
        declined: what the backend said that it does not offer; None where it ran.
    """

    level: str
    case: str
    seed: int
    mode: str
    dtype: str
    seconds: float
    findings: tuple[Finding, ...]
    expected: str | None = None
    declined: str | None = None

    @property
    def id(self) -> str:
        """``case/mode/dtype``."""
        return f"{self.case}/{self.mode}/{self.dtype}"

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; a case that ran and compared nothing has that as its problem."""
        if self.declined is None and not self.findings:
            return ("nothing was compared",)
        return tuple(f"{f.quantity}: {f.problem}" for f in self.findings if f.problem is not None)

    @property
    def passed(self) -> bool:
        """Whether it ran and every comparison held."""
        return self.declined is None and not self.problems

    @property
    def verdict(self) -> Verdict:
        """What came of it, with what was expected of it."""
        if self.declined is not None:
            return "not offered"
        if self.expected is None:
            return "passed" if self.passed else "failed"
        return "passed unexpectedly" if self.passed else "failed as expected"

    @property
    def good(self) -> bool:
        """Whether it did what was expected of it, or said that it does not offer it."""
        return self.verdict in ("passed", "failed as expected", "not offered")

    def worst(self, kind: Kind) -> float:
        """Return the largest error of a kind; NaN where nothing of that kind was compared."""
        return max((f.error for f in self.findings if f.kind == kind), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values; infinite errors become null."""
        values = dataclasses.asdict(self)
        for finding in values["findings"]:
            finding["error"] = finding["error"] if math.isfinite(finding["error"]) else None
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        """Return the outcome that :meth:`to_dict` described."""
        findings = tuple(
            Finding(**(finding | {"error": math.inf if finding["error"] is None else finding["error"]}))
            for finding in values["findings"]
        )
        return cls(**(dict(values) | {"findings": findings}))


@dataclass(frozen=True, kw_only=True)
class NotOffered:
    """Checks that did not run because the backend lacks something: neither passed nor failed.

    Attributes:
        kind: of what is lacking: a mode, a dtype, a member of the contract, or what a member declined.
        name: its name, or what the backend said.
        checks: the checks that need it, ``case/mode/dtype``.
    """

    kind: Literal["mode", "dtype", "member", "declined"]
    name: str
    checks: tuple[str, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases among the checks, each once."""
        return tuple(dict.fromkeys(check.partition("/")[0] for check in self.checks))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NotOffered:
        """Return what ``dataclasses.asdict`` described, through JSON or not."""
        return cls(**(dict(values) | {"checks": tuple(values["checks"])}))


@dataclass(frozen=True, kw_only=True)
class BackendRun:
    """A backend's run: how it ended, with which versions, and its outcomes up to there.

    Attributes:
        backend: as ``--backend`` named it.
        status: how it ended.
        detail: what was wrong with it as a whole.
        versions: package to version.
        seconds: how long it took, loading included.
        outcomes: a check each.
        not_offered: what the selection asked for and the backend lacks.
    """

    backend: str
    status: Status = "ran"
    detail: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    outcomes: tuple[Outcome, ...] = ()
    not_offered: tuple[NotOffered, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it ran to the end, compared something, and every check did what was expected of it."""
        return self.status == "ran" and bool(self.outcomes) and all(outcome.good for outcome in self.outcomes)

    def with_outcome(self, outcome: Outcome) -> BackendRun:
        """Return the run with one more outcome; a check that was declined is among what is not offered."""
        if outcome.declined is None:
            return dataclasses.replace(self, outcomes=(*self.outcomes, outcome))
        lack = NotOffered(kind="declined", name=outcome.declined, checks=(outcome.id,))
        others = []
        for other in self.not_offered:
            if (other.kind, other.name) == (lack.kind, lack.name):
                lack = dataclasses.replace(other, checks=(*other.checks, outcome.id))
            else:
                others.append(other)
        return dataclasses.replace(self, not_offered=(*others, lack))

    def of(self, *verdicts: Verdict) -> tuple[Outcome, ...]:
        """Return the outcomes with one of the verdicts."""
        return tuple(outcome for outcome in self.outcomes if outcome.verdict in verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {
            "backend": self.backend,
            "status": self.status,
            "passed": self.passed,
            "detail": self.detail,
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "not_offered": [dataclasses.asdict(lack) for lack in self.not_offered],
            "outcomes": [outcome.to_dict() | {"verdict": outcome.verdict} for outcome in self.outcomes],
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """The runs of one call of the suite.

    Attributes:
        runs: a backend each.
        asked: whether the backends were named; one that is not installed then fails.
        stale: expected failures that match no check, as their file names them.
        environment: where it ran.
    """

    runs: tuple[BackendRun, ...]
    asked: bool = True
    stale: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether something ran, every run passed, and no expected failure is stale."""
        counted = [run for run in self.runs if self.asked or run.status != "not installed"]
        return bool(counted) and all(run.passed for run in counted) and not self.stale

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values; ``schema`` is its version."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "environment": dict(self.environment),
            "stale_expected_failures": list(self.stale),
            "runs": [run.to_dict() for run in self.runs],
        }
