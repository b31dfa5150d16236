"""Shortcut back-propagation round a network of the user's own: branches while training, the bare network otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_jax.readout import BranchFactory, ConvolutionalBranch, LinearBranch, TimeAxis, arrange, check_axes, over_time
from sbp_jax.taps import Path, call_tapped, module_names


@runtime_checkable
class Tappable(Protocol):
    """What a network may offer so that it can be tapped at more than its modules: it returns what it is asked for.

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


Net = TypeVar("Net", bound=nnx.Module)
Branch = Literal["linear", "convolutional"] | BranchFactory

_WHAT_TO_IMPLEMENT = (
    "a network to be tapped takes taps=None, and with taps=('block', ...) returns (logits, {'block': its output, "
    "(time, batch, ..., channels)}); see sbp_jax.Tappable"
)


class Shortcut(nnx.Module, Generic[Net]):
    """A network with shortcut branches (Guo et al. 2024, section 4), each global average pooling and a linear layer.

    In training, ``combine="logits"`` gives ``o_final = b_n(x) + coefficient * sum_l b_l(x)`` (Eq. 6-10) and
    ``"losses"`` gives ``ShortcutOutput(main, branches)``. After ``model.eval()`` it gives ``b_n(x)`` and runs no
    branch; ``model.train()`` switches back.

    A tap is the path of a module with dots, ``"layer2.1"`` or ``"blocks.0"`` (:func:`sbp_jax.taps.module_names`), that
    runs once in a call. A network that takes ``taps`` itself, as :class:`Tappable` says, is asked instead for the names
    in its ``spec.tap_channels``, or for all of them where it states none. Under ``jit``, ``grad``, ``vmap``,
    ``lax.scan`` over steps and ``remat`` of the model every tap works; in a network that itself transforms a tapped
    block, ``nnx.remat`` with the block as an argument does. For Equinox, Linen and functions: :mod:`sbp_jax.branches`.

    Args:
        net: an nnx module that gives logits, ``(batch, num_classes)``, or those of each step, ``(time, batch,
            num_classes)``; the branches then give those of each step too. It is not edited: ``model.main`` and
            ``model.strip()`` are the very same object.
        taps: names of the blocks to tap.
        num_classes: outputs of each branch.
        combine: "logits" or "losses".
        time_axis: where time is in the tapped outputs: 0, ``(time, batch, ..., channels)``; 1; or None for no time.
        channel_axis: where their channels are; the axes that are left, any number, are space, or tokens.
        branch: "linear"; "convolutional", a small head (:class:`~sbp_jax.readout.ConvolutionalBranch`); or a function
            ``(channels, num_classes, *, rngs)`` that returns an nnx module of your own, from ``(time, batch, ...,
            channels)`` to logits at each step, ``(time, batch, num_classes)``.
        sample: an input of the network, or a tuple of all its inputs, to find the branches' sizes with, by shape alone;
            not needed where ``net.spec.tap_channels`` says them.
        dtype: dtype of the branches' computation; None to follow from what they tap.
        param_dtype: dtype of the branches' parameters.
        rngs: random keys of the branches' initial weights.

    Raises:
        ValueError: a tap that does not exist (the message suggests near names), sizes that are not known and no sample,
            a bad argument, or a tapped output whose shape does not fit.
        TypeError: a network that is no nnx module or has nothing to tap; the message says what it lacks.
        RuntimeError: a tapped module that did not run, ran twice, or whose output cannot be reached.

    Example:
        >>> net = nnx.Sequential(nnx.Linear(6, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 10, rngs=nnx.Rngs(1)))
        >>> images = jnp.ones((2, 6))
        >>> model = Shortcut(net, taps=("0",), num_classes=10, time_axis=None, sample=images, rngs=nnx.Rngs(2))
        >>> model(images, coefficient=0.25).shape
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
        time_axis: TimeAxis = 0,
        channel_axis: int = -1,
        branch: Branch = "linear",
        sample: Any = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(net, nnx.Module):
            raise TypeError(
                f"net must be an nnx.Module, got {type(net).__name__}; "
                "for Equinox, Linen and plain functions use sbp_jax.branches"
            )
        self.spec = ShortcutSpec(taps=cast(tuple[str, ...], taps), combine=combine)
        self.num_classes = validation.count("num_classes", num_classes)
        check_axes(time_axis, channel_axis)
        if not callable(branch):
            validation.choice("branch", branch, ("linear", "convolutional"))
        self.time_axis, self.channel_axis = time_axis, channel_axis
        self._explicit, paths = _find(net, self.spec)
        self._paths = tuple(paths.items())
        self.main = net
        sizes = self._sizes(sample)
        self.branches = nnx.List(
            [_branch(branch, sizes[tap], num_classes, dtype, param_dtype, rngs) for tap in self.spec.taps]
        )
        self.deterministic = False  # set by train() and eval(), as in nnx.Dropout

    def __call__(self, *inputs: Any, coefficient: Any = None, **keywords: Any) -> jax.Array | ShortcutOutput:
        """Return the composed logits in training, the main ones alone after ``eval()``.

        Args:
            *inputs: what the network takes, images for one.
            coefficient: lambda, the weight of the branches in the summed logits: a number or a scalar array, which may
                be traced. Needed in training unless the branches are kept apart for :class:`ShortcutLoss`, which then
                takes it.
            **keywords: keyword arguments of the network.

        Raises:
            ValueError: no coefficient in training, or one that is not a finite scalar; a tapped output or a branch's
                logits of a shape that does not fit.
            TypeError: a network that returns something else than :class:`Tappable` says.
            RuntimeError: a tapped module that did not run, ran twice, or whose output cannot be reached.
        """
        if self.deterministic:
            logits: jax.Array = self.main(*inputs, **keywords)
            return logits
        if self.spec.combine == "logits" and coefficient is None:
            raise ValueError(
                "coefficient must be given in training, as in model(images, coefficient=0.25); "
                "call model.eval() for the main logits alone"
            )
        main, tapped = _tap(self.main, self._explicit, dict(self._paths), inputs, keywords)
        branches = []
        for tap, branch in zip(self.spec.taps, self.branches, strict=True):
            x = arrange(tap, tapped[tap], main.shape[-2], self.time_axis, self.channel_axis)
            logits = branch(x)
            if logits.shape != (*x.shape[:2], self.num_classes):
                raise ValueError(
                    f"the branch of tap {tap!r} must give (time, batch, num_classes) = "
                    f"{(*x.shape[:2], self.num_classes)}, it gave {logits.shape}"
                )
            branches.append(over_time(tap, logits, main))
        if self.spec.combine == "losses":
            return ShortcutOutput(main, tuple(branches))
        summed: jax.Array = sum_logits(main, branches, scalar(coefficient, main.dtype))
        return summed

    def strip(self) -> Net:
        """Return the network itself, on which nothing was left: it never had the branches."""
        return self.main

    def _sizes(self, sample: Any) -> dict[str, _Size]:
        stated = _stated_channels(self.main)
        if sample is None:
            unknown = [tap for tap in self.spec.taps if tap not in stated]
            if unknown:
                raise ValueError(
                    f"sample must be given, a batch of images: the channels of tap {unknown[0]!r} are not in "
                    f"{type(self.main).__name__}.spec.tap_channels"
                )
            return {tap: _Size(stated[tap], 2) for tap in self.spec.taps}
        inputs = sample if isinstance(sample, tuple) else (sample,)
        paths = dict(self._paths)
        # a shape-level run on a copy: neither the network's state nor its random streams move
        graph, state = nnx.split(self.main)
        tapped = jax.eval_shape(
            lambda state, inputs: _tap(nnx.merge(graph, state), self._explicit, paths, inputs, {})[1], state, inputs
        )
        arranged = {
            tap: jax.eval_shape(
                lambda x, tap=tap: arrange(tap, x, None, self.time_axis, self.channel_axis), tapped[tap]
            )
            for tap in self.spec.taps
        }
        return {tap: _Size(x.shape[-1], len(x.shape) - 3) for tap, x in arranged.items()}


class _Size(NamedTuple):
    """What a branch is built for."""

    channels: int
    space: int


def scalar(coefficient: Any, dtype: Any) -> jax.Array:
    """Return the coefficient as a scalar array.

    Raises:
        ValueError: a number that is not finite, or an array of another shape.
    """
    if isinstance(coefficient, int | float):
        coefficient = validation.finite("coefficient", coefficient)
    array = jnp.asarray(coefficient, dtype)
    if array.shape != ():
        raise ValueError(f"coefficient must be a scalar, got shape {array.shape}")
    return array


def _branch(kind: Branch, size: _Size, num_classes: int, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    if kind == "linear":
        return LinearBranch(size.channels, num_classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
    if kind == "convolutional":
        return ConvolutionalBranch(
            size.channels, num_classes, space=size.space, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
    module = kind(size.channels, num_classes, rngs=rngs)
    if not isinstance(module, nnx.Module):
        raise TypeError(f"branch must return an nnx.Module, it returned {type(module).__name__}")
    return module


def _stated_channels(net: nnx.Module) -> Mapping[str, int]:
    known = getattr(getattr(net, "spec", None), "tap_channels", None)
    return {} if known is None else cast(Mapping[str, int], known)


def _find(net: nnx.Module, spec: ShortcutSpec) -> tuple[tuple[str, ...], dict[str, Path]]:
    """Return the taps to ask the network for, and those found in its module tree with their paths."""
    stated = _stated_channels(net)
    if _takes_taps(net):
        if not stated:
            return spec.taps, {}
    else:
        stated = {}
    names = module_names(net)
    if not names and not stated:
        raise TypeError(
            f"net cannot be tapped: it has no modules inside, and {type(net).__name__}.__call__ takes no 'taps'; "
            f"{_WHAT_TO_IMPLEMENT}"
        )
    spec.check_taps([*stated, *(name for name in names if name not in stated)])
    explicit = tuple(tap for tap in spec.taps if tap in stated)
    return explicit, {tap: names[tap] for tap in spec.taps if tap not in explicit}


def _takes_taps(net: nnx.Module) -> bool:
    parameters = inspect.signature(net).parameters.values() if callable(net) else ()
    return any(parameter.name == "taps" for parameter in parameters)


def _tap(
    net: Any,
    explicit: tuple[str, ...],
    paths: Mapping[str, Path],
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Return the main logits, and every tapped output by name."""
    if explicit:
        keywords = {**keywords, "taps": explicit}
    result, tapped = call_tapped(net, paths, inputs, keywords) if paths else (net(*inputs, **keywords), {})
    if explicit:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise TypeError(f"net returned {type(result).__name__} for taps={explicit}: {_WHAT_TO_IMPLEMENT}")
        result, returned = result
        ShortcutSpec(taps=explicit).check_taps(returned)
        tapped = {**returned, **tapped}
    if not isinstance(result, jax.Array):
        raise TypeError(f"net must return an array of logits, it returned {type(result).__name__}")
    return result, tapped
