"""The contract an adapter fulfils so that the conformance suite can hold it to the reference.

Everything crosses it as NumPy: arrays go in, the backend casts them to ``dtype``, computes natively,
and returns what it got, cast to float64 only where NumPy lacks the dtype (bfloat16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from sbp_core.specs.losses import LossSpec
from sbp_core.specs.networks import ResNetSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate

Array = NDArray[Any]
Mode = Literal["eager", "compiled", "vmapped"]


class NotOffered(Exception):  # noqa: N818
    """Raised by a member of a backend for what it cannot do, by name: the check neither passes nor fails.

    Example:
        >>> raise NotOffered("learnt decay")
        Traceback (most recent call last):
        ...
        sbp_core.backend.NotOffered: learnt decay
    """


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


class ShortcutNetwork(NamedTuple):
    """A spiking ResNet with branches, and the loss it is trained with.

    Attributes:
        spec: the network.
        taps: blocks with a branch.
        loss: of main and branch logits; not per step, for the network averages them over time.
    """

    spec: ResNetSpec
    taps: tuple[str, ...]
    loss: LossSpec


class MomentumSGD(NamedTuple):
    """Stochastic gradient descent with momentum, of every parameter, the branches' and learnt decays included.

    With g the gradient at step k and ``v_0 = 0``: ``v_k = momentum * v_{k-1} + g``, ``w_k = w_{k-1} - learning_rate *
    v_k``. No dampening, no Nesterov step, no weight decay. Frameworks agree on this one; on Adam's epsilon and on the
    coupling of weight decay they do not.
    """

    learning_rate: float
    momentum: float


class Batch(NamedTuple):
    """Still images, ``(batch, channels, height, width)``, and integer classes, ``(batch,)``."""

    images: Array
    labels: Array


class NetworkResult(NamedTuple):
    """What one step of training gave, before any weight moved; names and layouts as in :class:`~sbp_core.ResNetSpec`.

    Attributes:
        logits: what the model gave in training: the summed logits alone, or the main and each branch's, as its loss
            composes them.
        value: the loss.
        gradients: of each parameter, ``main.<name>`` and ``branches.<tap>.<name>``.
        statistics: the running means and variances after the step.
        evaluated: main logits of the same images in evaluation, after the step.
        spikes: the output of each block, ``(time, batch, channels, height, width)``: the stem and every stage.
        dtype: names the dtype that the native logits had.
    """

    logits: tuple[Array, ...]
    value: float
    gradients: Mapping[str, Array]
    statistics: Mapping[str, Array]
    evaluated: Array
    spikes: Mapping[str, Array]
    dtype: str


class TrainingResult(NamedTuple):
    """What training gave: the loss of each step, and every parameter and running statistic at its end."""

    losses: tuple[float, ...]
    weights: Mapping[str, Array]
    dtype: str


@runtime_checkable
class Backend(Protocol):
    """An adapter under test.

    Arrays come in any memory layout; a framework whose arrays have one gets them as they are.

    Attributes:
        name: what the table calls it.
        versions: package to version, of everything that computes.
        modes: "eager"; "compiled" where the framework compiles; "vmapped" where it maps functions: spike and neuron
            then differentiate each sample by itself, mapped over the batch.
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
        spec: LossSpec,
        dtype: str,
        mode: Mode,
    ) -> LossResult:
        """Compose main and branch logits into ``spec``'s loss and differentiate.

        The logits are ``(batch, classes)``, or ``(time, batch, classes)`` where ``spec.per_step``; the labels are
        ``(batch,)``. The equations are those of :func:`sbp_core.composition.compose_loss`, which computes them in any
        framework.
        """
        ...

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the coefficient at ``step``, passed to the schedule as an integer array of the framework."""
        ...


@runtime_checkable
class TrainsNetworks(Protocol):
    """What a backend may have besides: the network of :class:`~sbp_core.ResNetSpec`. It is held to it if it has."""

    def network(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batch: Batch,
        coefficient: float,
        *,
        dtype: str,
        mode: Mode,
    ) -> NetworkResult:
        """Build the network with ``weights``, run a training step's forward and backward pass, then evaluate."""
        ...

    def training(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batches: Sequence[Batch],
        schedule: Schedule,
        optimizer: MomentumSGD,
        *,
        dtype: str,
        mode: Mode,
    ) -> TrainingResult:
        """Train from ``weights``, a step for each batch; the k-th, k = 1, 2, ..., uses ``schedule(k)``."""
        ...


#: Of the members, those that say what a backend is; the others are what it does.
DECLARATIONS = ("name", "versions", "modes", "dtypes")

#: Members that :func:`sbp_core.registry.load` looks for.
MEMBERS = (*DECLARATIONS, "spike", "neuron", "loss", "schedule")
