"""Surrogate level: spikes and surrogate gradients of every family and every preset, at and far from every corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.compare import close, equal, native_dtype
from sbp_conformance.levels.base import REFERENCE, Case, reference_dtype, tolerances
from sbp_conformance.precision import representable
from sbp_conformance.results import Finding
from sbp_core import Surrogate, presets
from sbp_core.backend import Backend, Mode, SpikeResult
from sbp_core.specs.surrogates import (
    FAMILIES,
    ArcTan,
    FastSigmoid,
    Gaussian,
    LeakyRectangle,
    Rectangle,
    Sigmoid,
    Tanh,
    Triangle,
)

# every surrogate that presets names, under the name it has there
PRESETS: dict[str, Surrogate] = {
    function.__name__: function()
    for function in (
        presets.spikingjelly_sigmoid,
        presets.spikingjelly_atan,
        presets.spikingjelly_softsign,
        presets.spikingjelly_superspike,
        presets.spikingjelly_piecewise_quadratic,
        presets.spikingjelly_rect,
        presets.spikingjelly_erf,
        presets.spikingjelly_piecewise_exp,
        presets.spikingjelly_piecewise_leaky_relu,
        presets.snntorch_atan,
        presets.snntorch_sigmoid,
        presets.snntorch_fast_sigmoid,
        presets.norse_superspike,
        presets.norse_triangle,
        presets.norse_heavi_erfc,
        presets.norse_tanh,
        presets.spyx_superspike,
        presets.spyx_arctan,
        presets.spyx_boxcar,
        presets.spyx_triangular,
        presets.spyx_tanh,
        presets.braincog_rectangle,
    )
}

# heights and widths that no default has
VARIANTS: dict[str, Surrogate] = {
    "rectangle-wide": Rectangle(width=2.0),
    "rectangle-tall": Rectangle(width=0.5, height=0.3),
    "leaky-rectangle-wide": LeakyRectangle(height=0.7, width=4.0, leak=0.125),
    "triangle-steep": Triangle(height=1.7, width=0.25),
    "arctan-wide": ArcTan(height=0.6, width=1.5),
    "sigmoid-steep": Sigmoid(height=2.5, width=0.1),
    "fast-sigmoid-wide": FastSigmoid(height=0.8, width=2.0),
    "gaussian-wide": Gaussian(height=0.4, width=1.75),
    "tanh-narrow": Tanh(height=1.3, width=0.2),
    "triangle-flat": Triangle(height=0.11, width=7.0),
    "arctan-high": ArcTan(height=6.0, width=0.03),
}

# one rounding each for x / width, the function of it, and the two or three products round it, doubled
_ROUNDINGS = 10


@dataclass(frozen=True, kw_only=True)
class SurrogateCase(Case):
    """One surrogate: fired and differentiated at every point that matters.

    Attributes:
        surrogate: the family with its height and width.
        inclusive: fire at 0 too.
    """

    level: ClassVar[str] = "surrogate"
    needs: ClassVar[tuple[str, ...]] = ("spike",)
    surrogate: Surrogate
    inclusive: bool = False

    def points(self, dtype: str) -> NDArray[np.float64]:
        """Return where it is evaluated: 0, round and on the corners, and far out, as many points for every surrogate.

        A corner itself is among them where every dtype holds it exactly; else the nearest point keeps 2^-5 of it away,
        for within rounding of a jump two correct implementations may differ.
        """
        width = getattr(self.surrogate, "width", 1.0)
        points = [0.0, 0.125, 0.25, 1.0, 3.0, 5.0, 10.0, 100.0, 1e4]
        for corner in (width / 2, width):
            exact = float(representable(corner, "bfloat16")) == corner
            points += [corner * (1 - 2.0**-5), corner * (1 + 2.0**-5), corner if exact else 0.3 * corner]
        given = np.asarray(points)
        return representable(np.concatenate([given, -given]), dtype)

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the spikes and the gradient."""
        x = self.points(dtype)
        # one sign and no value near 0: every point's gradient then counts
        cotangent = representable(np.random.default_rng(self.seed).uniform(0.5, 1.5, x.shape), dtype)
        want = REFERENCE.spike(
            x, self.surrogate, cotangent, inclusive=self.inclusive, dtype=reference_dtype(dtype), mode="eager"
        )
        got = backend.spike(x, self.surrogate, cotangent, inclusive=self.inclusive, dtype=dtype, mode=mode)
        if not isinstance(got, SpikeResult):
            problem = f"wrong type: expected a SpikeResult, got {type(got).__name__}"
            return [Finding(quantity="result", kind="contract", problem=problem)]
        allowed = self.tolerances[dtype].gradient
        return [
            native_dtype(got.dtype, dtype),
            equal("spikes", got.spikes, want.spikes, dtype),
            close("gradient of the input", "gradient", got.grad_input, want.grad_input, dtype, allowed),
        ]


def cases() -> tuple[Case, ...]:
    """Return a case for every family, preset and variant; the families with ``>=`` as well as with ``>``."""
    families = {family: FAMILIES[family]() for family in FAMILIES}
    named = [(f"{family}-{sign}", s, sign == "ge") for family, s in families.items() for sign in ("gt", "ge")]
    named += [(name, surrogate, False) for name, surrogate in (VARIANTS | PRESETS).items()]
    # the compiled neuron cases have a family each; these add the comparison and one more
    compiled = {"rectangle-ge": ("float64",), "exponential-gt": ("float32",), "tanh-gt": ("float64",)}
    return tuple(
        SurrogateCase(
            name=f"surrogate-{name.replace('_', '-')}",
            seed=1000 + index,
            surrogate=surrogate,
            inclusive=inclusive,
            compiled=compiled.get(name, ()),
            vmapped=("float32",) if name.endswith("-gt") else (),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (name, surrogate, inclusive) in enumerate(named)
    )
