"""The peers' neurons and surrogates as specs, with their defaults.

Each function is named ``library_neuron`` and takes the peer's own arguments. Sources: the libraries' code, at
SpikingJelly 2.0.0, snnTorch 1.0.0, Norse 1.1.0, spyx 1.0.0.
"""

from __future__ import annotations

import math

from sbp_core import validation
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.surrogates import (
    ArcTan,
    Exponential,
    FastSigmoid,
    Gaussian,
    LeakyRectangle,
    Rectangle,
    Sigmoid,
    Surrogate,
    Tanh,
    Triangle,
)


def paper_lif() -> LIFSpec:
    """Return the neuron of Guo et al. 2024, Eq. 1-3: tau = 0.5, threshold 1, hard reset to 0, rectangle of width 1."""
    return LIFSpec()


def authors_lif() -> LIFSpec:
    """Return the neuron of the authors' other public code (none is of this paper): decay 0.25, threshold 0.5."""
    return LIFSpec(decay=0.25, threshold=0.5, surrogate=Rectangle(width=1.0))


def spikingjelly_lif(
    *,
    tau: float = 2.0,
    decay_input: bool = True,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: Surrogate | None = None,
    learn_decay: bool = False,
) -> LIFSpec:
    """Return SpikingJelly's ``LIFNode``, or ``ParametricLIFNode`` with ``learn_decay``; ``v_reset=None`` is soft.

    Its learnt ``w`` is the negative of ours: ``1 / tau = sigmoid(w)`` there, ``decay = sigmoid(w)`` here.

    Raises:
        ValueError: ``tau`` is not greater than 1, which the peer asks for too.

    Example:
        >>> spikingjelly_lif(tau=4.0).decay
        0.75
    """
    if validation.finite("tau", tau) <= 1.0:
        raise ValueError(f"tau must be greater than 1, got {tau!r}")
    level = 0.0 if v_reset is None else v_reset
    return LIFSpec(
        decay=1.0 - 1.0 / tau,
        learn_decay=learn_decay,
        input_gain="complement" if decay_input else 1.0,
        threshold=v_threshold,
        inclusive=True,
        rest=level,
        reset="soft" if v_reset is None else "hard",
        reset_value=level,
        detach_reset=detach_reset,
        surrogate=surrogate or spikingjelly_sigmoid(),
    )


def spikingjelly_clif(*, tau: float = 2.0, v_threshold: float = 1.0, surrogate: Surrogate | None = None) -> LIFSpec:
    """Return SpikingJelly's ``ComplementaryLIFNode``, the neuron of Huang et al. 2024: its input does not decay.

    Raises:
        ValueError: ``tau`` is not greater than 1.

    Example:
        >>> spikingjelly_clif().state_parts
        ('potential', 'complementary')
    """
    lif = spikingjelly_lif(tau=tau, decay_input=False, v_threshold=v_threshold, v_reset=None, surrogate=surrogate)
    return lif.replace(complementary_state=True, surrogate=surrogate or spikingjelly_rect())


def spikingjelly_if(
    *,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: Surrogate | None = None,
) -> LIFSpec:
    """Return SpikingJelly's ``IFNode``: no leak; ``v_reset=None`` is its soft reset."""
    return LIFSpec(
        decay=1.0,
        threshold=v_threshold,
        inclusive=True,
        rest=0.0 if v_reset is None else v_reset,
        reset="soft" if v_reset is None else "hard",
        reset_value=0.0 if v_reset is None else v_reset,
        detach_reset=detach_reset,
        surrogate=surrogate or spikingjelly_sigmoid(),
    )


def snntorch_leaky(
    *,
    beta: float,
    threshold: float = 1.0,
    reset_mechanism: str = "subtract",
    reset_delay: bool = True,
    surrogate: Surrogate | None = None,
) -> LIFSpec:
    """Return snnTorch's ``Leaky``; ``beta`` is clamped to [0, 1], as there.

    Raises:
        ValueError: an unknown mechanism; or, without delay, "subtract", or "zero" with a threshold below 0: there the
            peer lowers or raises the reset by that of the step before, in a way that this family has not.

    Example:
        >>> snntorch_leaky(beta=0.9).reset_timing
        'next'
    """
    validation.choice("reset_mechanism", reset_mechanism, ("subtract", "zero", "none"))
    if reset_mechanism == "subtract" and not reset_delay:
        raise ValueError("reset_delay must be True for reset_mechanism='subtract': without it the peer resets twice")
    if reset_mechanism == "zero" and not reset_delay and validation.finite("threshold", threshold) < 0.0:
        raise ValueError(
            f"threshold must be at least 0 for reset_mechanism='zero' without delay, got {threshold!r}: a potential of "
            "0 is above it, and the peer then takes back the reset of the step before"
        )
    return LIFSpec(
        decay=min(max(validation.finite("beta", beta), 0.0), 1.0),
        threshold=threshold,
        reset={"subtract": "soft", "zero": "hard", "none": "none"}[reset_mechanism],  # type: ignore[arg-type]
        reset_timing="next" if reset_delay else "now",
        detach_reset=reset_delay,
        surrogate=surrogate or snntorch_atan(),
    )


def snntorch_synaptic(
    *,
    alpha: float,
    beta: float,
    threshold: float = 1.0,
    reset_mechanism: str = "subtract",
    surrogate: Surrogate | None = None,
) -> LIFSpec:
    """Return snnTorch's ``Synaptic``: ``Leaky`` behind a synapse that decays by ``alpha``; both are clamped to [0, 1].

    Raises:
        ValueError: an unknown mechanism, or "zero": there the peer zeroes the new potential, its input with it, where
            its ``Leaky`` zeroes the old one.
    """
    validation.choice("reset_mechanism", reset_mechanism, ("subtract", "none"))
    leaky = snntorch_leaky(beta=beta, threshold=threshold, reset_mechanism=reset_mechanism, surrogate=surrogate)
    return leaky.replace(synaptic_decay=min(max(validation.finite("alpha", alpha), 0.0), 1.0))


def norse_lif_box(
    *,
    tau_mem_inv: float = 100.0,
    dt: float = 0.001,
    v_leak: float = 0.0,
    v_th: float = 1.0,
    v_reset: float = 0.0,
    surrogate: Surrogate | None = None,
) -> LIFSpec:
    """Return Norse's ``LIFBoxCell``: ``dt * tau_mem_inv`` is what the potential moves towards the input each step.

    Raises:
        ValueError: ``dt * tau_mem_inv`` outside [0, 1]: the potential would overshoot the input.
    """
    factor = validation.within("dt * tau_mem_inv", dt * tau_mem_inv, 0.0, 1.0)
    return LIFSpec(
        decay=1.0 - factor,
        input_gain=factor,
        threshold=v_th,
        rest=v_leak,
        reset_value=v_reset,
        surrogate=surrogate or norse_superspike(),
    )


def norse_lif(*, tau_syn_inv: float = 200.0, dt: float = 0.001, **fields: float) -> LIFSpec:
    """Return Norse's ``LIFCell``: ``LIFBoxCell`` behind a synapse that decays by ``1 - dt * tau_syn_inv``.

    Norse stores the current after its decay; ours is stored before, so its initial current is ours times the decay.

    Raises:
        ValueError: ``dt * tau_mem_inv`` or ``dt * tau_syn_inv`` outside [0, 1].
    """
    factor = validation.within("dt * tau_syn_inv", dt * tau_syn_inv, 0.0, 1.0)
    return norse_lif_box(dt=dt, **fields).replace(synaptic_decay=1.0 - factor)  # type: ignore[arg-type]


def spyx_lif(*, beta: float, threshold: float = 1.0, surrogate: Surrogate | None = None) -> LIFSpec:
    """Return spyx's ``LIF``: soft reset at the next step, the output one step later, ``beta`` clamped to [0, 1]."""
    return LIFSpec(
        decay=min(max(validation.finite("beta", beta), 0.0), 1.0),
        threshold=threshold,
        reset="soft",
        reset_timing="next",
        output_delay=1,
        surrogate=surrogate or spyx_superspike(),
    )


def spikingjelly_sigmoid(alpha: float = 4.0) -> Sigmoid:
    """Return SpikingJelly's ``Sigmoid``: ``a s(ax) (1 - s(ax))``."""
    return Sigmoid(height=alpha / 4, width=1 / alpha)


def spikingjelly_atan(alpha: float = 2.0) -> ArcTan:
    """Return SpikingJelly's ``ATan``: ``a / 2 / (1 + (pi a x / 2)^2)``."""
    return ArcTan(height=alpha / 2, width=2 / (math.pi * alpha))


def spikingjelly_softsign(alpha: float = 2.0) -> FastSigmoid:
    """Return SpikingJelly's ``SoftSign``: ``1 / (2a (1/a + |x|)^2)``."""
    return FastSigmoid(height=alpha / 2, width=1 / alpha)


def spikingjelly_superspike(alpha: float = 1.0) -> FastSigmoid:
    """Return SpikingJelly's ``SuperSpike``: ``a / (1 + |x|)^2``."""
    return FastSigmoid(height=alpha, width=1.0)


def spikingjelly_piecewise_quadratic(alpha: float = 1.0) -> Triangle:
    """Return SpikingJelly's ``PiecewiseQuadratic``: ``a - a^2 |x|`` where that is positive."""
    return Triangle(height=alpha, width=1 / alpha)


def spikingjelly_rect(alpha: float = 1.0) -> Rectangle:
    """Return SpikingJelly's ``Rect``: ``a`` where ``|x| < 1 / (2a)``."""
    return Rectangle(height=alpha, width=1 / alpha)


def spikingjelly_erf(alpha: float = 2.0) -> Gaussian:
    """Return SpikingJelly's ``Erf``: ``a / sqrt(pi) exp(-a^2 x^2)``."""
    return Gaussian(height=alpha / math.sqrt(math.pi), width=1 / alpha)


def spikingjelly_piecewise_exp(alpha: float = 1.0) -> Exponential:
    """Return SpikingJelly's ``PiecewiseExp``: ``a / 2 exp(-a |x|)``."""
    return Exponential(height=alpha / 2, width=1 / alpha)


def spikingjelly_piecewise_leaky_relu(w: float = 1.0, c: float = 0.01) -> LeakyRectangle:
    """Return SpikingJelly's ``PiecewiseLeakyReLU``: ``1 / (2w)`` where ``|x| < w``, else ``c``."""
    return LeakyRectangle(height=1 / (2 * w), width=2 * w, leak=c)


def snntorch_atan(alpha: float = 2.0) -> ArcTan:
    """Return snnTorch's ``atan``, the same as SpikingJelly's."""
    return spikingjelly_atan(alpha)


def snntorch_sigmoid(slope: float = 25.0) -> Sigmoid:
    """Return snnTorch's ``sigmoid``, ``k s(kx) (1 - s(kx))``, without the NaN it gives at ``x = -5``."""
    return Sigmoid(height=slope / 4, width=1 / slope)


def snntorch_fast_sigmoid(slope: float = 25.0) -> FastSigmoid:
    """Return snnTorch's ``fast_sigmoid``: ``1 / (1 + k |x|)^2``."""
    return FastSigmoid(height=1.0, width=1 / slope)


def norse_superspike() -> FastSigmoid:
    """Return Norse's ``super``: ``1 / (1 + |x|)^2``; version 1.1.0 takes an ``alpha`` of 100 and does not use it."""
    return FastSigmoid(height=1.0, width=1.0)


def norse_triangle(alpha: float = 0.3) -> Triangle:
    """Return Norse's ``triangle``: ``a max(0, 1 - |x|)``."""
    return Triangle(height=alpha, width=1.0)


def norse_heavi_erfc(k: float = 1.0) -> Gaussian:
    """Return Norse's ``heavi_erfc``: ``2 exp(-k^2 x^2) / sqrt(pi)``."""
    return Gaussian(height=2 / math.sqrt(math.pi), width=1 / k)


def norse_tanh(k: float = 1.0) -> Tanh:
    """Return Norse's ``heavi_tanh``: ``sech^2(k x)``."""
    return Tanh(height=1.0, width=1 / k)


def spyx_superspike(k: float = 25.0) -> FastSigmoid:
    """Return spyx's ``superspike``: ``1 / (1 + k |x|)^2``."""
    return FastSigmoid(height=1.0, width=1 / k)


def spyx_arctan(k: float = 2.0) -> ArcTan:
    """Return spyx's ``arctan``: ``1 / (pi (1 + (k pi x)^2))``."""
    return ArcTan(height=1 / math.pi, width=1 / (k * math.pi))


def spyx_boxcar(width: float = 2.0, height: float = 0.5) -> Rectangle:
    """Return spyx's ``boxcar``: ``height`` where ``|x| < width / 2``."""
    return Rectangle(height=height, width=width)


def spyx_triangular(k: float = 2.0) -> Triangle:
    """Return spyx's ``triangular``: ``max(0, 1 - |k x|)``."""
    return Triangle(height=1.0, width=1 / k)


def spyx_tanh(k: float = 1.0) -> Tanh:
    """Return spyx's ``tanh``: ``sech^2(k x)``."""
    return Tanh(height=1.0, width=1 / k)


def braincog_rectangle(alpha: float = 2.0) -> Rectangle:
    """Return BrainCog's ``GateGrad``: 1 where ``|x| < 1 / a``."""
    return Rectangle(height=1.0, width=2 / alpha)
