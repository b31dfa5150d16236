"""Surrogate gradients: what stands in for the derivative of the Heaviside step.

Each family is one formula ``g(x)`` of ``x = u - V_th`` with a ``height``, its value at the threshold, and a ``width``.
``derivative`` is written over an array namespace, so every backend runs this very formula. ``antiderivative`` is the
smooth twin of the step, in NumPy: with it in place of the spike, finite differences reproduce the surrogate gradient.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.specs.base import Spec

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Surrogate(Spec, abstract=True):
    """Base of the families; one of your own needs a ``kind`` and a ``derivative``.

    ``derivative`` may use any function of the namespace. The compiled loops take the elementary ones; what they cannot
    take runs as tensor operations, with the same results.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class RaisedCosine(Surrogate):
        ...     kind: ClassVar[str] = "raised_cosine"
        ...     width: float = 1.0
        ...
        ...     def derivative(self, x, xp):
        ...         inside = xp.astype(xp.abs(x) < self.width, x.dtype)
        ...         return inside * (0.5 + 0.5 * xp.cos(x * (math.pi / self.width)))
        >>> as_surrogate("raised_cosine").peak
        1.0
        >>> round(float(RaisedCosine().antiderivative(np.array(9.0))), 6)
        1.0
    """

    @property
    def peak(self) -> float:
        """The derivative at ``x = 0``."""
        return float(self.derivative(np.zeros(()), np))

    @abstractmethod
    def derivative(self, x: Any, xp: Any) -> Any:
        """Return ``g(x)`` for an array ``x`` of the namespace ``xp``, in the shape and dtype of ``x``."""

    def antiderivative(self, x: Float64) -> Float64:
        """Return the smooth twin of the step: an antiderivative of ``g`` that is 1/2 at ``x = 0``.

        Only checks by finite differences use it. Unless a family has a formula, it is found by quadrature: where ``g``
        is smooth to about 1e-12 of its integral, round a jump to about 1e-4.
        """
        ends = np.asarray(x, np.float64)
        edges = np.linspace(0.0, 1.0, _PANELS + 1)
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        at = edges[:-1, None] + (nodes + 1.0) / (2 * _PANELS)
        values = self.derivative(ends[..., None, None] * at, np)
        return np.asarray(0.5 + ends * (values * weights).sum((-2, -1)) / (2 * _PANELS))


_PANELS, _NODES = 256, 8


@dataclass(frozen=True, kw_only=True)
class _Bump(Surrogate, abstract=True):
    """A family with a height and a width.

    ``width`` is the family's own measure, the one in its formula: a whole base, half of one, a scale.
    :attr:`half_width` is one measure for all.
    """

    #: Half the width at half the height, of a surrogate whose ``width`` is 1.
    half_width_of_one: ClassVar[float]
    height: float = 1.0
    width: float = 1.0

    def __post_init__(self) -> None:
        self._set("height", validation.positive("height", self.height))
        self._set("width", validation.positive("width", self.width))

    @property
    def peak(self) -> float:
        """The derivative at ``x = 0``."""
        return self.height

    @property
    def half_width(self) -> float:
        """The distance from the threshold at which the derivative has fallen to half its height: comparable."""
        return self.half_width_of_one * self.width


def of_half_width(surrogate: str, half_width: float) -> Surrogate:
    """Return the family of that name, its width such that the derivative falls to half its height at ``half_width``.

    Raises:
        ValueError: an unknown family, one without a width, or a half width that is not greater than 0.

    Example:
        >>> of_half_width("rectangle", 0.5).width, of_half_width("triangle", 0.5).width
        (1.0, 1.0)
    """
    validation.positive("half_width", half_width)
    default = as_surrogate(surrogate)
    if not isinstance(default, _Bump):
        raise ValueError(f"surrogate {surrogate!r} has no width that a half width could set")
    return default.replace(width=half_width / default.half_width_of_one)


def _box(x: Any, xp: Any, half: float) -> Any:
    return xp.astype(xp.abs(x) < half, x.dtype)


@dataclass(frozen=True, kw_only=True)
class Rectangle(_Bump):
    """Rectangle: ``g(x) = height * 1(|x| < width / 2)``, the paper's default neuron's (Guo et al. 2024, Eq. 5).

    Attributes:
        width: the whole width ``a``.
        height: None means ``1 / width``, the paper's: the area is one.

    Raises:
        ValueError: a width or height that is not greater than 0.

    Example:
        >>> import numpy as np
        >>> Rectangle(width=2.0).derivative(np.array([-1.5, 0.0, 0.9]), np).tolist()
        [0.0, 0.5, 0.5]
    """

    kind: ClassVar[str] = "rectangle"
    half_width_of_one: ClassVar[float] = 0.5
    height: float | None = None  # type: ignore[assignment]  # resolved by peak

    def __post_init__(self) -> None:
        self._set("width", validation.positive("width", self.width))
        if self.height is not None:
            self._set("height", validation.positive("height", self.height))

    @property
    def peak(self) -> float:
        """The derivative at ``x = 0``."""
        return 1.0 / self.width if self.height is None else self.height

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return ``height`` inside the rectangle and 0 outside."""
        return _box(x, xp, self.width / 2) * self.peak

    def antiderivative(self, x: Float64) -> Float64:
        """Return a ramp of slope ``height`` over the rectangle, 1/2 at 0."""
        return 0.5 + self.peak * np.clip(x, -self.width / 2, self.width / 2)


@dataclass(frozen=True, kw_only=True)
class LeakyRectangle(_Bump):
    """Leaky rectangle: ``height`` for ``|x| < width / 2`` and ``leak`` outside (SpikingJelly's PiecewiseLeakyReLU).

    Attributes:
        height: the derivative inside.
        width: the whole width.
        leak: the derivative outside, at least 0.

    Raises:
        ValueError: a width or height that is not greater than 0, or a negative leak.
    """

    kind: ClassVar[str] = "leaky_rectangle"
    half_width_of_one: ClassVar[float] = 0.5
    width: float = 2.0
    leak: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("leak", validation.within("leak", self.leak, 0.0, float("inf")))

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return ``height`` inside and ``leak`` outside."""
        inside = _box(x, xp, self.width / 2)
        return inside * self.height + (1.0 - inside) * self.leak

    def antiderivative(self, x: Float64) -> Float64:
        """Return a ramp of slope ``height`` inside and ``leak`` outside, 1/2 at 0."""
        inside = np.clip(x, -self.width / 2, self.width / 2)
        return 0.5 + self.height * inside + self.leak * (x - inside)


@dataclass(frozen=True, kw_only=True)
class Triangle(_Bump):
    """Triangle: ``g(x) = height * max(0, 1 - |x| / width)``; ``width`` is half its base (Guo et al. 2024, Eq. 5).

    The paper's ``gamma * max(0, 1 - |u / V_th - 1|)`` is ``Triangle(height=gamma, width=V_th)``.

    Raises:
        ValueError: a width or height that is not greater than 0.

    Example:
        >>> import numpy as np
        >>> Triangle().derivative(np.array([-0.25, 0.0, 2.0]), np).tolist()
        [0.75, 1.0, 0.0]
    """

    kind: ClassVar[str] = "triangle"
    half_width_of_one: ClassVar[float] = 0.5

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the triangle at ``x``."""
        rise = 1.0 - xp.abs(x) / self.width
        return xp.where(rise < 0, xp.zeros_like(rise), rise) * self.height

    def antiderivative(self, x: Float64) -> Float64:
        """Return two parabolas that meet at 1/2."""
        z = np.clip(x / self.width, -1.0, 1.0)
        return 0.5 + self.height * self.width * (z - 0.5 * z * np.abs(z))


@dataclass(frozen=True, kw_only=True)
class ArcTan(_Bump):
    """Arctangent: ``g(x) = height / (1 + (x / width)^2)``.

    SpikingJelly's and snnTorch's ``a / 2 / (1 + (pi a x / 2)^2)`` has ``height = a / 2`` and ``width = 2 / (pi a)``;
    the defaults are their ``a = 2``.

    Raises:
        ValueError: a width or height that is not greater than 0.
    """

    kind: ClassVar[str] = "arctan"
    half_width_of_one: ClassVar[float] = 1.0
    width: float = 1.0 / math.pi

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the bell at ``x``."""
        z = x / self.width
        return self.height / (1.0 + z * z)

    def antiderivative(self, x: Float64) -> Float64:
        """Return the scaled arctangent."""
        return 0.5 + self.height * self.width * np.arctan(x / self.width)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(_Bump):
    """Logistic: ``g(x) = 4 height s(z) (1 - s(z))`` with ``z = x / width`` and ``s`` the logistic function.

    Computed as ``4 height e / (1 + e)^2`` with ``e = exp(-|z|)``, which neither overflows nor gives NaN far away.
    SpikingJelly's ``a s(ax) (1 - s(ax))`` has ``height = a / 4`` and ``width = 1 / a``; the defaults are its ``a = 4``.

    Raises:
        ValueError: a width or height that is not greater than 0.
    """

    kind: ClassVar[str] = "sigmoid"
    half_width_of_one: ClassVar[float] = 2.0 * math.acosh(math.sqrt(2.0))
    width: float = 0.25

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the bell at ``x``."""
        e = xp.exp(-xp.abs(x) / self.width)
        s = 1.0 / (1.0 + e)
        return (4.0 * self.height) * (e * s * s)

    def antiderivative(self, x: Float64) -> Float64:
        """Return the scaled logistic function."""
        return 0.5 + 2.0 * self.height * self.width * np.tanh(x / (2.0 * self.width))


@dataclass(frozen=True, kw_only=True)
class FastSigmoid(_Bump):
    """Fast sigmoid, or SuperSpike: ``g(x) = height / (1 + |x| / width)^2``.

    snnTorch's and spyx's ``1 / (1 + 25 |x|)^2`` is the default.

    Raises:
        ValueError: a width or height that is not greater than 0.
    """

    kind: ClassVar[str] = "fast_sigmoid"
    half_width_of_one: ClassVar[float] = math.sqrt(2.0) - 1.0
    width: float = 0.04

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the cusp at ``x``."""
        fall = 1.0 / (1.0 + xp.abs(x) / self.width)
        return self.height * (fall * fall)

    def antiderivative(self, x: Float64) -> Float64:
        """Return the scaled softsign."""
        return 0.5 + self.height * x / (1.0 + np.abs(x) / self.width)


@dataclass(frozen=True, kw_only=True)
class Gaussian(_Bump):
    """Gaussian: ``g(x) = height * exp(-(x / width)^2)``.

    SpikingJelly's Erf, ``a / sqrt(pi) * exp(-a^2 x^2)``, has ``height = a / sqrt(pi)`` and ``width = 1 / a``; the
    defaults are its ``a = 2``.

    Raises:
        ValueError: a width or height that is not greater than 0.
    """

    kind: ClassVar[str] = "gaussian"
    half_width_of_one: ClassVar[float] = math.sqrt(math.log(2.0))
    height: float = 2.0 / math.sqrt(math.pi)
    width: float = 0.5

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the bell at ``x``."""
        z = x / self.width
        return self.height * xp.exp(-(z * z))

    def antiderivative(self, x: Float64) -> Float64:
        """Return the scaled error function."""
        erf = np.vectorize(math.erf, otypes=[np.float64])(x / self.width)
        return np.asarray(0.5 + (0.5 * math.sqrt(math.pi) * self.height * self.width) * erf)


@dataclass(frozen=True, kw_only=True)
class Tanh(_Bump):
    """Hyperbolic tangent: ``g(x) = height * (1 - tanh(x / width)^2)`` (Guo et al. 2024, Eq. 5).

    The paper prints the square outside the bracket; the derivative of tanh has it on tanh.

    Raises:
        ValueError: a width or height that is not greater than 0.
    """

    kind: ClassVar[str] = "tanh"
    half_width_of_one: ClassVar[float] = math.acosh(math.sqrt(2.0))

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the bell at ``x``."""
        t = xp.tanh(x / self.width)
        return self.height * (1.0 - t * t)

    def antiderivative(self, x: Float64) -> Float64:
        """Return the scaled hyperbolic tangent."""
        return 0.5 + self.height * self.width * np.tanh(x / self.width)


@dataclass(frozen=True, kw_only=True)
class Exponential(_Bump):
    """Piecewise exponential: ``g(x) = height * exp(-|x| / width)``.

    SpikingJelly's ``a / 2 * exp(-a |x|)`` has ``height = a / 2`` and ``width = 1 / a``; the defaults are its ``a = 1``.

    Raises:
        ValueError: a width or height that is not greater than 0.
    """

    kind: ClassVar[str] = "exponential"
    half_width_of_one: ClassVar[float] = math.log(2.0)
    height: float = 0.5

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the cusp at ``x``."""
        return self.height * xp.exp(-xp.abs(x) / self.width)

    def antiderivative(self, x: Float64) -> Float64:
        """Return the two-sided saturating exponential."""
        return 0.5 + np.sign(x) * self.height * self.width * -np.expm1(-np.abs(x) / self.width)


@dataclass(frozen=True, kw_only=True)
class StraightThrough(Surrogate):
    """Straight-through estimator: ``g(x) = height`` everywhere. It has no width.

    Raises:
        ValueError: a height that is not greater than 0.
    """

    kind: ClassVar[str] = "straight_through"
    height: float = 1.0

    def __post_init__(self) -> None:
        self._set("height", validation.positive("height", self.height))

    @property
    def peak(self) -> float:
        """The derivative at ``x = 0``."""
        return self.height

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return ``height``, whatever ``x``."""
        return xp.ones_like(x) * self.height

    def antiderivative(self, x: Float64) -> Float64:
        """Return a straight line, 1/2 at 0."""
        return 0.5 + self.height * x


#: The families that come with sbp, by name; :meth:`Surrogate.families` has users' too.
FAMILIES: dict[str, type[Surrogate]] = Surrogate.families()


def as_surrogate(surrogate: Surrogate | str) -> Surrogate:
    """Return a surrogate as it is, or the family of that name, a user's own among them, with its defaults.

    Raises:
        ValueError: no family has that name, or it has a field without a default.
        TypeError: neither a surrogate nor a name.

    Example:
        >>> as_surrogate("triangle")
        Triangle(height=1.0, width=1.0)
    """
    if isinstance(surrogate, Surrogate):
        return surrogate
    if not isinstance(surrogate, str):
        raise TypeError(f"surrogate must be a Surrogate or a name, got {type(surrogate).__name__}")
    families = Surrogate.families()
    validation.choice("surrogate", surrogate, families)
    family = families[surrogate]
    needed = [field.name for field in fields(family) if field.default is MISSING and field.default_factory is MISSING]
    if needed:
        raise ValueError(f"surrogate {surrogate!r} needs {', '.join(needed)}: pass {family.__name__}(...) instead")
    return family()
