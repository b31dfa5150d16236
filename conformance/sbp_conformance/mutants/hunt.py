"""Plants mutants in a backend, one at a time, and looks for the check that catches each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sbp_conformance.backends import registry_name
from sbp_conformance.mutants import MUTANTS, Mutant
from sbp_conformance.mutants.seams import ADAPTERS, fits, planted
from sbp_conformance.results import Finding, Outcome
from sbp_conformance.run import Check, Selection, plan, run_check
from sbp_core.backend import Backend


@dataclass(frozen=True, kw_only=True)
class Hunt:
    """What became of a mutant.

    Attributes:
        mutant: its name.
        level: that is to catch it.
        seam: where it was planted.
        backend: in which.
        check: the check that caught it, ``case/mode/dtype``; None if it survived.
        quantity: what differed there.
        problem: how; or why it could not be planted.
        alarm: what the check says of the backend as it is: a check that fails there too has caught nothing.
        checks: how many were run.
        seconds: how long it took.
        kind: the mutant's.
    """

    mutant: str
    level: str
    seam: str
    backend: str
    check: str | None = None
    quantity: str = ""
    problem: str = ""
    alarm: str = ""
    checks: int = 0
    seconds: float = 0.0
    kind: str = ""

    @property
    def caught(self) -> bool:
        """Whether a check failed because of the mutant."""
        return self.check is not None and not self.alarm


def chosen(name: str, backend: Backend, patterns: Iterable[str] = ("*",)) -> list[Mutant]:
    """Return the mutants of some names that can be planted in a backend.

    Faults by kind are the same in every backend, and slow to look for in some: they are planted in an adapter with
    seams of its own where a pattern asks for them.

    Args:
        name: as ``--backend`` says it.
        backend: the backend.
        patterns: of names of mutants.
    """
    patterns, known = list(patterns), registry_name(name) in ADAPTERS
    named = [mutant for mutant in MUTANTS if any(fnmatchcase(mutant.name, pattern) for pattern in patterns)]
    asked = [mutant for mutant in named if not (mutant.kind and known and "*" in patterns)]
    return [mutant for mutant in asked if fits(mutant, registry_name(name), backend)]


def hunt(name: str, backend: Backend, mutants: Iterable[Mutant], *, cases: Sequence[str] = ("*",)) -> Iterator[Hunt]:
    """Plant each mutant and yield what became of it.

    A mutant counts as caught by what was compared, not by an error that it happens to raise somewhere. The check that
    caught it is run on the backend as it is, too, and must pass there.

    Args:
        name: as ``--backend`` says it.
        backend: the backend.
        mutants: what to plant.
        cases: patterns of the cases that may catch it, to learn what a part of the suite is worth.
    """
    plain: dict[str, Outcome] = {}
    for mutant in mutants:
        start = time.perf_counter()
        ran, caught, finding = 0, None, Finding(quantity="", kind="contract", problem="no check failed")
        try:
            # planted once for all checks: a fault may carry something over from one call to the next
            with planted(mutant, registry_name(name), backend) as broken:
                for check in _checks(backend, mutant, cases):
                    outcome = run_check(broken, check)
                    ran += 1
                    compared = [f for f in outcome.findings if f.problem is not None and f.quantity != "call"]
                    if compared:
                        caught, finding = check, compared[0]
                        break
        except (AttributeError, ImportError) as error:
            finding = Finding(quantity="", kind="contract", problem=f"could not be planted: {error}")
        alarm = ""
        if caught is not None:
            if caught.id not in plain:
                plain[caught.id] = run_check(backend, caught)
            alarm = "; ".join(plain[caught.id].problems)
        yield Hunt(
            mutant=mutant.name,
            level=mutant.level,
            seam=mutant.seam,
            backend=name,
            check=None if caught is None else caught.id,
            quantity=finding.quantity,
            problem=finding.problem or "",
            alarm=alarm,
            checks=ran,
            seconds=time.perf_counter() - start,
            kind=mutant.kind,
        )


def _checks(backend: Backend, mutant: Mutant, cases: Sequence[str]) -> list[Check]:
    """Return the checks to look at: first those that the mutant names, then the rest of its level."""

    def planned(patterns: Sequence[str]) -> list[Check]:
        selection = Selection(levels=[mutant.level], cases=patterns, modes=["eager"], dtypes=mutant.dtypes)
        return plan(backend, selection).checks

    allowed = {check.id: check for check in planned(cases)}
    named = [check.id for pattern in mutant.cases for check in planned([pattern])]
    return [allowed[each] for each in dict.fromkeys([*named, *allowed]) if each in allowed]
