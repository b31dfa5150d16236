"""Random level: neurons and losses that hypothesis makes up, the same ones in every run unless more are asked for.

What fails is told as its spec; of those made up anew, the simplest that fails. The level needs hypothesis; without it
the suite runs all the others.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sbp_conformance.levels import loss
from sbp_conformance.levels.base import Case, tolerances
from sbp_conformance.levels.loss import LossCase
from sbp_conformance.levels.neuron import NeuronCase, NoDrawError
from sbp_conformance.precision import FULL
from sbp_conformance.results import Finding
from sbp_core.backend import Backend, Mode, NotOffered

_EXAMPLES = 40


def is_available() -> bool:
    """Whether hypothesis is installed."""
    return importlib.util.find_spec("hypothesis") is not None


class _FailedError(Exception):
    """Carries what was found out of hypothesis."""

    def __init__(self, case: NeuronCase | LossCase, findings: list[Finding]) -> None:
        super().__init__(case.name)
        self.case, self.findings = case, findings


@dataclass(frozen=True, kw_only=True)
class RandomCase(Case):
    """Neurons of :mod:`sbp_conformance.strategies`, each run as a case of the neuron level.

    Attributes:
        examples: how many.
        anew: make up others in every run.
    """

    level: ClassVar[str] = "random"
    needs: ClassVar[tuple[str, ...]] = ("neuron",)
    strategy: ClassVar[str] = "neuron_cases"
    examples: int = _EXAMPLES
    anew: bool = False

    def with_examples(self, examples: int) -> Self:
        """Return a search over so many that no run has seen."""
        return dataclasses.replace(self, examples=examples, anew=True)

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Return the worst of each quantity over all examples; or what a failing one gave."""
        import hypothesis

        from sbp_conformance import strategies

        worst: dict[str, Finding] = {}
        declined: list[NotOffered] = []

        def check(case: NeuronCase | LossCase) -> None:
            try:
                findings = _findings(case, backend, dtype, mode)
            except (NoDrawError, loss.NoDrawError):
                hypothesis.reject()
            except NotOffered as error:
                declined.append(error)
                return
            if any(finding.problem is not None for finding in findings):
                raise _FailedError(case, findings)
            for finding in findings:
                if finding.quantity not in worst or finding.error > worst[finding.quantity].error:
                    worst[finding.quantity] = finding

        settings = hypothesis.settings(
            max_examples=self.examples,
            derandomize=not self.anew,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            # looking for a simpler example takes minutes, which are for the one who asked for a search
            phases=(hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if self.anew else [])),
            print_blob=False,
            verbosity=hypothesis.Verbosity.quiet,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        try:
            drawn: Callable[[], hypothesis.strategies.SearchStrategy[Any]] = getattr(strategies, self.strategy)
            settings(hypothesis.given(drawn())(check))()
        except _FailedError as failed:
            case = failed.case
            found = [finding for finding in failed.findings if finding.problem is not None]
            told = Finding(quantity=case.level, kind="contract", problem=f"{_start(case)}, spec={case.spec.to_json()}")
            return [*found, told]
        if declined and not worst:
            raise declined[0]
        return list(worst.values())


@dataclass(frozen=True, kw_only=True)
class RandomLossCase(RandomCase):
    """Losses of :mod:`sbp_conformance.strategies`, each run as a case of the loss level."""

    needs: ClassVar[tuple[str, ...]] = ("loss",)
    strategy: ClassVar[str] = "loss_cases"


def _start(case: NeuronCase | LossCase) -> str:
    if isinstance(case, LossCase):
        return f"seed={case.seed}, branches={case.branches}, coefficient={case.coefficient}"
    return f"seed={case.seed}, with_state={case.with_state}, decay_logit={case.decay_logit}"


def _findings(case: NeuronCase | LossCase, backend: Backend, dtype: str, mode: Mode) -> list[Finding]:
    case.inputs(dtype)  # first: where nothing can be drawn, the backend has not failed
    try:
        return case.run(backend, dtype=dtype, mode=mode)
    except NotOffered:
        raise
    except Exception as error:
        return [Finding(quantity="call", kind="contract", problem=f"raised {type(error).__name__}: {error!s:.300}")]


def cases() -> tuple[Case, ...]:
    """Return the cases of this level.

    Raises:
        ModuleNotFoundError: hypothesis is not installed.
    """
    if not is_available():
        raise ModuleNotFoundError("level 'random' needs hypothesis: pip install hypothesis", name="hypothesis")
    return (
        RandomCase(name="random-neurons", seed=6000, dtypes=FULL, tolerances=tolerances(1)),
        RandomLossCase(name="random-losses", seed=6001, dtypes=FULL, tolerances=tolerances(1)),
    )
