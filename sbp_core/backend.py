"""The contract an adapter fulfils so that the conformance suite can hold it to the reference.

Everything crosses it as NumPy: arrays go in, the backend casts them to ``dtype``, computes natively,
and returns what it got, cast to float64 only where NumPy lacks the dtype (bfloat16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate

Array = NDArray[Any]
Mode = Literal["eager", "compiled"]
Combine = Literal["logits", "losses"]


class SpikeResult(NamedTuple):
    """Spikes of the step function, and the gradient of ``sum(spikes * cotangent)`` with respect to its input."""

    spikes: Array
    grad_input: Array
    dtype: str


class NeuronResult(NamedTuple):
    """What a neuron gave, and the gradients of ``sum(output * output_cotangent) + sum(state * state_cotangent)``.

    ``state`` and ``grad_state`` hold None where the spec has no such part; ``grad_decay_logit`` is None unless the
    decay is learnt. ``dtype`` names the dtype that the native output had.
    """

    output: Array
    state: LIFState
    grad_input: Array
    grad_state: LIFState
    grad_decay_logit: float | None
    dtype: str


class LossResult(NamedTuple):
    """A composed loss, and its gradients with respect to the main and the branches' logits."""

    value: float
    grad_main: Array
    grad_branches: tuple[Array, ...]
    dtype: str


@runtime_checkable
class Backend(Protocol):
    """An adapter under test.

    Attributes:
        name: what the table calls it.
        versions: package to version, of everything that computes.
        modes: "eager" and, where the framework compiles, "compiled".
        dtypes: names of the dtypes it computes in, of float64, float32, bfloat16, float16.
    """

    name: str
    versions: Mapping[str, str]
    modes: Sequence[Mode]
    dtypes: Sequence[str]

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire where ``x > 0`` (``>=`` if inclusive) and differentiate with the surrogate."""
        ...

    def neuron(
        self,
        spec: LIFSpec,
        x: Array,
        state: LIFState | None,
        output_cotangent: Array,
        state_cotangent: LIFState,
        *,
        decay_logit: float | None,
        dtype: str,
        mode: Mode,
    ) -> NeuronResult:
        """Run ``spec`` over ``x``, shape ``(time, batch, ...)``, from ``state``, and differentiate.

        With ``state`` None the neuron starts fresh, and ``grad_state`` holds None throughout. ``decay_logit`` is w of
        ``decay = sigmoid(w)`` where ``spec.learn_decay``, else None.
        """
        ...

    def loss(
        self,
        main: Array,
        branches: Sequence[Array],
        labels: Array,
        coefficient: float,
        *,
        combine: Combine,
        dtype: str,
        mode: Mode,
    ) -> LossResult:
        """Compose main and branch logits, ``(batch, classes)``, into a mean cross-entropy and differentiate."""
        ...

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the coefficient at ``step``, passed to the schedule as an integer array of the framework."""
        ...


@runtime_checkable
class ComposesLosses(Protocol):
    """What a backend may have besides: every loss of a :class:`~sbp_core.LossSpec`. It is held to it if it has."""

    def composed_loss(
        self,
        main: Array,
        branches: Sequence[Array],
        labels: Array,
        coefficient: float,
        *,
        spec: LossSpec,
        dtype: str,
        mode: Mode,
    ) -> LossResult:
        """Compose main and branch logits into ``spec``'s loss and differentiate.

        The logits are ``(batch, classes)``, or ``(time, batch, classes)`` where ``spec.per_step``.
        """
        ...


#: Of the members, those that say what a backend is; the others are what it does.
DECLARATIONS = ("name", "versions", "modes", "dtypes")

#: Members that :func:`sbp_core.registry.load` looks for.
MEMBERS = (*DECLARATIONS, "spike", "neuron", "loss", "schedule")
