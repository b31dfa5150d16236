"""The contract an adapter fulfils so that the conformance suite can hold it to the reference.

An adapter brings an :class:`Engine`: arrays and gradients of its framework, and what of its library is to be tested, in
native arrays. The suite's harness makes a :class:`Backend` of it, which the cases call. Everything crosses that as
NumPy: arrays go in, are cast to ``dtype`` and computed with natively, and come back cast to float64 only where NumPy
lacks the dtype (bfloat16). What computes in no framework, or in its own way, may be a Backend itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from sbp_core.composition import ShortcutOutput
from sbp_core.specs.branches import BranchName
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.networks import NetworkSpec
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
    """A spiking network with branches, and the loss it is trained with.

    Attributes:
        spec: the network.
        taps: parts with a branch.
        loss: of main and branch logits; not per step, for the network averages them over time.
        branch: which branch.
    """

    spec: NetworkSpec
    taps: tuple[str, ...]
    loss: LossSpec
    branch: BranchName = "linear"


class MomentumSGD(NamedTuple):
    """Stochastic gradient descent with momentum, of every parameter, the branches' and learnt decays included.

    With g the gradient at step k and ``v_0 = 0``: ``v_k = momentum * v_{k-1} + g``, ``w_k = w_{k-1} - learning_rate *
    v_k``. No dampening, no Nesterov step, no weight decay. Frameworks agree on this one; on Adam's epsilon and on the
    coupling of weight decay they do not.
    """

    learning_rate: float
    momentum: float


class Batch(NamedTuple):
    """Images and their labels.

    Attributes:
        images: still ones, ``(batch, channels, *space)``, or event frames, ``(time, batch, channels, *space)``.
        labels: classes, ``(batch,)``, or shares of each, ``(batch, classes)``.
    """

    images: Array
    labels: Array


class NetworkResult(NamedTuple):
    """What one step of training gave, before any weight moved; names and layouts as in :class:`~sbp_core.NetworkSpec`.

    Attributes:
        logits: what the model gave in training: the summed logits alone, or the main and each branch's, as its loss
            composes them.
        value: the loss.
        gradients: of each parameter, ``main.<name>`` and ``branches.<tap>.<name>``.
        statistics: the running means and variances after the step, and after the evaluation, which leaves them alone.
        evaluated: main logits of the same images in evaluation, after the step.
        spikes: the output of each block, ``(time, batch, channels, *space)``: every part that can be tapped.
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
class Declared(Protocol):
    """What a backend and an engine say of themselves, and are held to.

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


@runtime_checkable
class Backend(Declared, Protocol):
    """An adapter under test.

    Arrays come in any memory layout; a framework whose arrays have one gets them as they are.
    """

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

        The logits are ``(batch, classes)``, or ``(time, batch, classes)`` where ``spec.timed``; the labels are
        classes, ``(batch,)``, or soft, ``(batch, classes)`` of the logits' dtype. The equations are those of
        :func:`sbp_core.composition.compose_loss`, which computes them in any framework.
        """
        ...

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the coefficient at ``step``, passed to the schedule as an integer array of the framework."""
        ...


@runtime_checkable
class TrainsNetworks(Protocol):
    """What a backend may have besides: networks of a :class:`~sbp_core.NetworkSpec`. It is held to it if it has."""

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


@runtime_checkable
class Engine(Declared, Protocol):
    """What an adapter brings: its framework's arrays and gradients, and the parts of its library that it offers.

    The parts are the members of :class:`FiresSpikes`, :class:`RunsNeurons`, :class:`ComposesLosses`,
    :class:`RunsFunctions` and :class:`BuildsNetworks`; a part that is not defined is not offered, and one that cannot
    do something raises :class:`NotOffered`. Two more members may be there:

    - ``layout``, a :class:`~sbp_core.taps.TapLayout`: where its arrays have time and channels, if not time first and
      channels before space;
    - ``precision(dtype)``: a context in which that dtype is there, if a setting of the framework's decides.
    """

    def array(self, values: Array, dtype: str | None) -> Any:
        """Return a native array of ``values``, whatever their memory layout, which are not written to.

        None as the dtype: the values are integers, and become what the framework counts with.
        """
        ...

    def numpy(self, array: Any) -> Array:
        """Return a native array's values, outside any gradient; bfloat16 as any dtype that holds it."""
        ...

    def vjp(
        self,
        function: Callable[..., Sequence[Any]],
        inputs: Sequence[Any],
        cotangents: Sequence[Any],
        mode: Mode,
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run ``function(*inputs)`` and pull the cotangents back.

        Args:
            function: of native arrays, to a sequence of native arrays.
            inputs: what to differentiate with respect to; the gradient of one that has no part in it is 0.
            cotangents: one for each array that the function returns.
            mode: "vmapped": the function is of one sample, and all arrays have the samples as their first axis.

        Returns:
            what the function returned, and the gradient of the sum of its products with the cotangents with respect to
            each input.
        """
        ...


@runtime_checkable
class FiresSpikes(Protocol):
    """An engine's step function."""

    def spike(self, x: Any, surrogate: Surrogate, *, inclusive: bool) -> Any:
        """Fire where ``x > 0`` (``>=`` if inclusive), with the surrogate's gradient."""
        ...


@runtime_checkable
class RunsNeurons(Protocol):
    """An engine's neurons."""

    def neuron(self, spec: LIFSpec, dtype: str) -> Callable[..., tuple[Any, LIFState]]:
        """Make the neuron of ``spec``, and return the function ``(x, state, decay_logit)`` that runs it over ``x``.

        It starts from ``state``, afresh where that is None; ``decay_logit`` is a scalar, w of ``decay = sigmoid(w)``,
        where ``spec.learn_decay``, else None. It returns the output, and the last state with the parts of the spec.
        """
        ...


@runtime_checkable
class ComposesLosses(Protocol):
    """An engine's loss."""

    def loss(self, spec: LossSpec, output: ShortcutOutput, labels: Any, coefficient: Any) -> Any:
        """Compose main and branch logits into the scalar of ``spec``; ``coefficient`` is a scalar array."""
        ...


@runtime_checkable
class RunsFunctions(Protocol):
    """An engine that reads schedules: it compiles a function of arrays."""

    def run(self, function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
        """Return ``function`` as it runs in ``mode``."""
        ...


class BuiltNetwork(Protocol):
    """A network with its branches, its loss and its weights, in native arrays of the engine's layout."""

    def differentiate(self, images: Any, labels: Any, coefficient: float) -> tuple[Any, Sequence[Any]]:
        """Run a training step's forward and backward pass; return the loss, and the logits that it is composed of."""
        ...

    def evaluate(self, images: Any) -> Any:
        """Return the main logits in evaluation."""
        ...

    def blocks(self, images: Any) -> Mapping[str, Any]:
        """Return the output of each part that can be tapped, in training."""
        ...

    def weights(self) -> Mapping[str, Array]:
        """Return parameters and running statistics by their canonical names."""
        ...

    def gradients(self) -> Mapping[str, Array]:
        """Return those of :meth:`differentiate`, as :meth:`weights` does; the last call: it may put them there."""
        ...

    def trainer(self, schedule: Schedule, optimizer: MomentumSGD) -> Callable[[Any, Any], tuple[Any, Sequence[Any]]]:
        """Return a function of images and labels that trains a step, and returns as :meth:`differentiate` does."""
        ...


@runtime_checkable
class BuildsNetworks(Protocol):
    """An engine's networks."""

    def network(
        self, network: ShortcutNetwork, weights: Mapping[str, Array], images: Any, dtype: str, mode: Mode
    ) -> BuiltNetwork:
        """Build a network with ``weights`` for images such as ``images``."""
        ...


#: Members that say what a backend or an engine is; the others are what it does.
DECLARATIONS = ("name", "versions", "modes", "dtypes")

#: Members of a backend that do something.
PARTS = ("spike", "neuron", "loss", "schedule", "network", "training")
