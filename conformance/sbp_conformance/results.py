"""Results as data: what was compared, what each case gave, and how a backend's run ended. All of it survives JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["spikes", "state", "gradient", "value", "contract"]
Status = Literal["ran", "not installed", "failed to load", "crashed", "timed out"]


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
    """What one case gave on one backend, in one mode and dtype."""

    level: str
    case: str
    seed: int
    mode: str
    dtype: str
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; a case that compared nothing has that as its problem."""
        if not self.findings:
            return ("nothing was compared",)
        return tuple(f"{f.quantity}: {f.problem}" for f in self.findings if f.problem is not None)

    @property
    def passed(self) -> bool:
        """Whether every comparison held."""
        return not self.problems

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
class BackendRun:
    """A backend's run: how it ended, with which versions, and its outcomes up to there."""

    backend: str
    status: Status = "ran"
    detail: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    outcomes: tuple[Outcome, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it ran to the end, compared something, and every comparison held."""
        return self.status == "ran" and bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {
            "backend": self.backend,
            "status": self.status,
            "passed": self.passed,
            "detail": self.detail,
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "outcomes": [outcome.to_dict() | {"passed": outcome.passed} for outcome in self.outcomes],
        }
