"""One neuron family: leaky, non-leaky, current-based, parametric and read-out neurons are fields of one spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_core.specs.surrogates import Rectangle, Surrogate, as_surrogate


class LIFState(NamedTuple):
    """What a neuron remembers from one step to the next; each array has the shape of one step's input.

    ``current`` is None unless the spec has a ``synaptic_decay``; ``spikes`` is None unless the output is delayed past a
    reset that has already erased it (``spec.stores_spikes``); ``complementary`` unless it has that state.
    """

    potential: Any
    current: Any = None
    spikes: Any = None
    complementary: Any = None


@dataclass(frozen=True, kw_only=True)
class LIFSpec(Spec):
    r"""The canonical neuron. With ``G`` the step function, ``V`` the stored potential and ``x = c[t]`` the input.

    .. code-block:: text

        I[t] = synaptic_decay * I[t-1] + x[t]                (I = x where synaptic_decay is None)
        H[t] = rest + decay * (V[t-1] - rest) + gain * I[t]  (the paper's u_pre)
        S[t] = G(H[t] - threshold)
        reset now:   hard V = (1 - S) * H + S * reset_value;  soft V = H - threshold * S;  none V = H
        reset next:  V = H, and the reset uses R[t] = G(V[t-1] - threshold) at the start of the next step:
                     hard, V[t-1] is replaced before it decays; soft, H is lowered by threshold * R after
        complementary state, of a reset now:
                     M[t] = M[t-1] * sigmoid((1 - decay) * (H[t] - rest)) + S[t], and V is lowered by S * sigmoid(M[t])

    The defaults are the neuron of Guo et al. 2024, Eq. 1-3: ``decay`` is its tau, a hard reset to 0, strictly greater.

    Attributes:
        decay: factor on the potential per step, in [0, 1]; 1 is the non-leaky integrate-and-fire neuron.
        learn_decay: a layer learns ``w`` with ``decay = sigmoid(w)``, starting from ``decay``; with ``input_gain``
            "complement" that is PLIF (:meth:`parametric`).
        input_gain: factor on the input, or "complement" for ``1 - decay``.
        synaptic_decay: factor on the synaptic current per step, in [0, 1]; None for no synapse.
        threshold: potential at which it fires, finite.
        inclusive: fire at ``H >= threshold`` instead of ``H > threshold``.
        rest: potential that it decays to.
        initial_potential: potential that it starts from; None for ``rest``.
        learn_initial: a layer learns the potential that its neurons start from, one number for all, beginning with
            ``initial_potential`` (Shen et al. 2024, IMP; theirs begins with a draw within 0.2 of 0).
        initial_follows: a layer's neurons start from a running mean of the potentials that neurons end with, one number
            for all, beginning with ``initial_potential``. In training each call that starts afresh, which it does from
            the mean as it was, moves it a tenth of the way to the mean of its last potentials, after the reset, over
            the neurons of all samples (those that a process has) that gave a spike in the call; where none did it
            stays, as it does in evaluation. It has no gradient. It needs spikes, and a start that is not learnt (Kook
            et al. 2026, MP-Init; theirs begins with 0, falls by a tenth where none fires, and in one of their two
            versions never lies below 0).
        reset: "hard", "soft" or "none".
        reset_value: potential after a hard reset.
        reset_timing: "now", or "next" step.
        output_delay: 0, or 1 to emit each spike one step later.
        detach_reset: keep the spikes' gradient out of the reset; a complementary state keeps its own.
        complementary_state: remember the spikes in ``M``, which fades the less the more the potential leaks, and make
            the reset stronger by it: the neuron CLIF (:meth:`complementary`). It needs a reset, "now".
        width_follows: at each step the surrogate is stretched, its area kept, until its half width is the standard
            deviation of the potentials before reset, over layer and batch (those that a process has; a mapped sample
            alone); the gradient takes that for a constant. It needs spikes without delay, and a surrogate with a half
            width (after Jiang et al. 2025, MPD-AGL, who take the deviation from the scale of the batch norm in front;
            here it is measured).
        output: "spikes", or "potential" for a read-out that never fires.
        surrogate: a surrogate, or the name of a family.

    Raises:
        ValueError: a field out of range, or fields that contradict each other.
        TypeError: a field of the wrong type.

    Example:
        >>> LIFSpec(decay=0.5, surrogate="triangle").surrogate
        Triangle(height=1.0, width=1.0)
        >>> LIFSpec(decay=1.5)
        Traceback (most recent call last):
        ...
        ValueError: decay must lie in [0, 1], got 1.5
    """

    kind: ClassVar[str] = "lif"
    decay: float = 0.5
    learn_decay: bool = False
    input_gain: float | Literal["complement"] = 1.0
    synaptic_decay: float | None = None
    threshold: float = 1.0
    inclusive: bool = False
    rest: float = 0.0
    initial_potential: float | None = None
    learn_initial: bool = False
    initial_follows: bool = False
    reset: Literal["hard", "soft", "none"] = "hard"
    reset_value: float = 0.0
    reset_timing: Literal["now", "next"] = "now"
    output_delay: Literal[0, 1] = 0
    detach_reset: bool = False
    complementary_state: bool = False
    width_follows: bool = False
    output: Literal["spikes", "potential"] = "spikes"
    surrogate: Surrogate = Rectangle()

    def __post_init__(self) -> None:
        self._set("decay", validation.within("decay", self.decay, 0.0, 1.0))
        if self.input_gain != "complement":
            if isinstance(self.input_gain, str):
                raise ValueError(f"input_gain must be a number or 'complement', got {self.input_gain!r}")
            self._set("input_gain", validation.finite("input_gain", self.input_gain))
        if self.synaptic_decay is not None:
            self._set("synaptic_decay", validation.within("synaptic_decay", self.synaptic_decay, 0.0, 1.0))
        for name in ("threshold", "rest", "reset_value"):
            self._set(name, validation.finite(name, getattr(self, name)))
        if self.initial_potential is not None:
            self._set("initial_potential", validation.finite("initial_potential", self.initial_potential))
        for name in (
            "learn_decay",
            "learn_initial",
            "initial_follows",
            "inclusive",
            "detach_reset",
            "complementary_state",
            "width_follows",
        ):
            validation.flag(name, getattr(self, name))
        validation.choice("reset", self.reset, ("hard", "soft", "none"))
        validation.choice("reset_timing", self.reset_timing, ("now", "next"))
        validation.choice("output", self.output, ("spikes", "potential"))
        if validation.count("output_delay", self.output_delay, 0) > 1:
            raise ValueError(f"output_delay must be 0 or 1, got {self.output_delay!r}")
        self._set("surrogate", as_surrogate(self.surrogate))
        if self.learn_decay and not 0.0 < self.decay < 1.0:
            raise ValueError(f"decay must lie strictly between 0 and 1 where learn_decay is set, got {self.decay!r}")
        if self.output == "potential" and (self.reset != "none" or self.output_delay):
            raise ValueError("output 'potential' never fires: it needs reset='none' and output_delay=0")
        if self.initial_follows and self.learn_initial:
            raise ValueError("initial_follows and learn_initial both say where neurons start: set one of them")
        if self.initial_follows and self.output == "potential":
            raise ValueError("initial_follows is of neurons that fire: it needs output='spikes', got 'potential'")
        if self.width_follows and (self.output == "potential" or self.output_delay):
            raise ValueError(
                "width_follows is of the spikes of the same step: it needs output='spikes' and output_delay=0, "
                f"got {self.output!r} and {self.output_delay!r}"
            )
        if self.width_follows and not hasattr(self.surrogate, "half_width"):
            raise ValueError(f"width_follows needs a surrogate with a half width, got {self.surrogate!r}")
        if self.complementary_state and (self.reset == "none" or self.reset_timing != "now"):
            raise ValueError(
                "complementary_state acts in the reset: it needs reset='hard' or 'soft' and reset_timing='now', "
                f"got {self.reset!r} and {self.reset_timing!r}"
            )

    @classmethod
    def integrate_and_fire(cls, **fields: Any) -> Self:
        """Return the integrate-and-fire neuron: ``decay`` is 1 (Guo et al. 2024, Eq. 1 with tau = 1)."""
        return cls(**({"decay": 1.0} | fields))

    @classmethod
    def leaky_integrator(cls, **fields: Any) -> Self:
        """Return a read-out that never fires and gives its potential."""
        return cls(**({"output": "potential", "reset": "none"} | fields))

    @classmethod
    def parametric(cls, **fields: Any) -> Self:
        """Return the PLIF neuron of Fang et al. 2021, Eq. 3: ``H = V + (x - (V - rest)) / tau``, one ``tau`` a layer.

        So the input is scaled by ``1 / tau = 1 - decay`` too. A layer learns ``w`` with ``decay = sigmoid(w)``; theirs
        is ``-w``, as ``1 / tau = sigmoid(-w)``. The default decay, 0.5, is their ``tau = 2``.
        """
        defaults: dict[str, Any] = {"learn_decay": True, "input_gain": "complement"}
        return cls(**(defaults | fields))

    @classmethod
    def current_based(cls, **fields: Any) -> Self:
        """Return a LIF neuron whose input passes a synapse that decays by half each step, unless told otherwise."""
        return cls(**({"synaptic_decay": 0.5} | fields))

    @classmethod
    def complementary(cls, **fields: Any) -> Self:
        """Return the CLIF neuron of Huang et al. 2024: a soft reset, made stronger by a state that remembers spikes.

        The gradient passes through time along that state too, where the potential's has faded. The defaults are
        theirs: ``decay`` is ``1 - 1 / tau`` with ``tau = 2``, the input is not scaled.
        """
        defaults: dict[str, Any] = {"complementary_state": True, "reset": "soft"}
        return cls(**(defaults | fields))

    @property
    def state_parts(self) -> tuple[str, ...]:
        """Names of the parts of a :class:`LIFState` that this neuron has, in order."""
        present = (True, self.synaptic_decay is not None, self.stores_spikes, self.complementary_state)
        return tuple(name for name, has in zip(LIFState._fields, present, strict=True) if has)

    @property
    def start(self) -> dict[str, float]:
        """What each part of the state is where the neuron starts afresh: the potential's own start, the others 0.

        Example:
            >>> LIFSpec.complementary(rest=0.5).start
            {'potential': 0.5, 'complementary': 0.0}
        """
        potential = self.rest if self.initial_potential is None else self.initial_potential
        return {name: potential if name == "potential" else 0.0 for name in self.state_parts}

    @property
    def stores_spikes(self) -> bool:
        """Whether the state must hold the last spikes: they are emitted later, and the reset has erased their trace."""
        return self.output_delay == 1 and self.reset != "none" and self.reset_timing == "now"
