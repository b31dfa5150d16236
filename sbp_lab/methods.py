"""The training methods that are compared, with the paper's settings."""

from __future__ import annotations

from dataclasses import dataclass

from sbp_core import Constant, Evolutionary, Schedule


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train.

    Attributes:
        name: what the command line calls it.
        schedule: the branches' coefficient over the iterations; None for a network without branches.
        summary: what a person reads in help and legends.
    """

    name: str
    schedule: Schedule | None
    summary: str


#: Guo et al. 2024, section 4: no branches; every weight 1; lambda(i) = 0.25 * (1 - i / I).
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="vanilla", schedule=None, summary="no branches"),
        Method(name="shortcut", schedule=Constant(value=1.0), summary="branches, coefficient 1"),
        Method(name="evolutionary", schedule=Evolutionary(initial=0.25), summary="branches, coefficient 0.25 to 0"),
    )
}
