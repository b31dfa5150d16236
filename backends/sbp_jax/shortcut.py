"""Shortcut back-propagation round a network of the user's own: branches while training, the bare network otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_jax.linear import linear


@runtime_checkable
class Tappable(Protocol):
    """What a network offers so that it can be tapped: it returns the outputs of its blocks, explicitly.

    ``net(images)`` is the logits, ``(batch, classes)``; ``net(images, taps=("layer1",))`` is ``(logits, tapped)``, with
    each tapped block's output over time, ``(time, batch, ..., channels)``, by name. ``tapped`` may hold more than was
    asked for; what is not used costs nothing under ``jit``.

    Example:
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.layer1, self.head = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)
        ...
        ...     def __call__(self, images, *, taps=None):
        ...         x = self.layer1(images)
        ...         logits = self.head(x).mean(0)
        ...         return logits if taps is None else (logits, {"layer1": x})
        >>> sample = jnp.ones((4, 1, 8))
        >>> model = Shortcut(Net(nnx.Rngs(0)), ("layer1",), 10, sample=sample, rngs=nnx.Rngs(1))
        >>> model(sample, coefficient=0.25).shape
        (1, 10)
    """

    def __call__(self, images: Any, *, taps: Any = None) -> Any:
        """Return the logits; with ``taps``, also a dictionary of block outputs."""
        ...


Net = TypeVar("Net", bound=Tappable)

_WHAT_TO_IMPLEMENT = (
    "a network to be tapped takes taps=None, and with taps=('block', ...) returns (logits, {'block': its output, "
    "(time, batch, ..., channels)}); see sbp_jax.Tappable"
)


class Shortcut(nnx.Module, Generic[Net]):
    """A network with shortcut branches (Guo et al. 2024, section 4), each global average pooling and a linear layer.

    In training, ``combine="logits"`` gives ``o_final = b_n(x) + coefficient * sum_l b_l(x)`` (Eq. 6-10) and
    ``"losses"`` gives ``ShortcutOutput(main, branches)``. After ``model.eval()`` it gives ``b_n(x)`` and runs no
    branch; ``model.train()`` switches back.

    Args:
        net: any nnx module that is :class:`Tappable`, :func:`resnet18` for one. It is not edited: ``model.main`` and
            ``model.strip()`` are the very same object.
        taps: names of the blocks to tap.
        num_classes: outputs of each branch.
        combine: "logits" or "losses".
        sample: a batch to find the branches' sizes with, by shape alone; not needed where ``net.spec.tap_channels``
            says them.
        dtype: dtype of the branches' computation; None to follow from what they tap.
        param_dtype: dtype of the branches' parameters.
        rngs: random keys of the branches' initial weights.

    Raises:
        ValueError: a tap that does not exist, sizes that are not known and no sample, or tapped outputs without time.
        TypeError: a network that cannot be tapped; the message says what it lacks.

    Example:
        >>> from sbp_jax import resnet18
        >>> net = resnet18(widths=(4, 4, 8, 8), time_steps=2, rngs=nnx.Rngs(0))
        >>> model = Shortcut(net, taps=("layer1", "layer2"), num_classes=10, rngs=nnx.Rngs(1))
        >>> model(jnp.ones((2, 8, 8, 3)), coefficient=0.25).shape
        (2, 10)
        >>> model.strip() is net
        True
    """

    def __init__(
        self,
        net: Net,
        taps: Sequence[str],
        num_classes: int = 10,
        combine: Literal["logits", "losses"] = "logits",
        *,
        sample: Any = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(net, nnx.Module):
            raise TypeError(f"net must be an nnx.Module, got {type(net).__name__}")
        if not _takes_taps(net):
            raise TypeError(
                f"net cannot be tapped: {type(net).__name__}.__call__ takes no 'taps'; {_WHAT_TO_IMPLEMENT}"
            )
        self.spec = ShortcutSpec(taps=cast(tuple[str, ...], taps), combine=combine)
        validation.count("num_classes", num_classes)
        channels = _tap_channels(net, self.spec, sample)
        self.spec.check_taps(channels)
        self.main = net
        self.branches = nnx.List(
            [
                linear(channels[tap], num_classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
                for tap in self.spec.taps
            ]
        )
        self.deterministic = False  # set by train() and eval(), as in nnx.Dropout

    def __call__(self, images: jax.Array, *, coefficient: Any = None) -> jax.Array | ShortcutOutput:
        """Return the composed logits in training, the main ones alone after ``eval()``.

        Args:
            images: what the network takes.
            coefficient: lambda, the weight of the branches in the summed logits: a number or a scalar array, which may
                be traced. Needed in training unless the branches are kept apart for :class:`ShortcutLoss`, which then
                takes it.

        Raises:
            ValueError: no coefficient in training, or one that is not a finite scalar.
            TypeError: a network that returns something else than :class:`Tappable` says.
        """
        if self.deterministic:
            logits: jax.Array = self.main(images)
            return logits
        main, tapped = _tap(self.main, images, self.spec)
        branches = tuple(
            branch(_pool(tapped[tap])).mean(axis=0) for tap, branch in zip(self.spec.taps, self.branches, strict=True)
        )
        if self.spec.combine == "losses":
            return ShortcutOutput(main, branches)
        if coefficient is None:
            raise ValueError(
                "coefficient must be given in training, as in model(images, coefficient=0.25); "
                "call model.eval() for the main logits alone"
            )
        summed: jax.Array = sum_logits(main, branches, _scalar(coefficient, main.dtype))
        return summed

    def strip(self) -> Net:
        """Return the network itself, on which nothing was left: it never had the branches."""
        return self.main


def _pool(x: jax.Array) -> jax.Array:
    """Return the mean over space of ``(time, batch, ..., channels)``."""
    if x.ndim < 3:
        raise ValueError(f"a tapped output must have shape (time, batch, ..., channels), got {x.shape}")
    return x.mean(axis=tuple(range(2, x.ndim - 1)))


def _scalar(coefficient: Any, dtype: Any) -> jax.Array:
    if isinstance(coefficient, int | float):
        coefficient = validation.finite("coefficient", coefficient)
    array = jnp.asarray(coefficient, dtype)
    if array.shape != ():
        raise ValueError(f"coefficient must be a scalar, got shape {array.shape}")
    return array


def _tap_channels(net: Tappable, spec: ShortcutSpec, sample: Any) -> Mapping[str, int]:
    known = getattr(getattr(net, "spec", None), "tap_channels", None)
    if known is not None:
        return cast(Mapping[str, int], known)
    if sample is None:
        raise ValueError(
            f"sample must be given, a batch of images: {type(net).__name__} has no spec.tap_channels with the sizes"
        )
    # a shape-level run on a copy: neither the network's state nor its random streams move
    graph, state = nnx.split(net)
    tapped = jax.eval_shape(lambda state, images: _tap(nnx.merge(graph, state), images, spec)[1], state, sample)
    return {name: output.shape[-1] for name, output in tapped.items()}


def _takes_taps(net: nnx.Module) -> bool:
    parameters = inspect.signature(net).parameters.values() if callable(net) else ()
    return any(parameter.name == "taps" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _tap(net: Tappable, images: Any, spec: ShortcutSpec) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    result = net(images, taps=spec.taps)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(f"net returned {type(result).__name__} for taps={spec.taps}: {_WHAT_TO_IMPLEMENT}")
    spec.check_taps(result[1])
    return result
