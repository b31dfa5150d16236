"""Shortcut branches as pure functions of a pytree: for Equinox and Linen modules, and for functions of your own.

They are ``sbp_jax.branches.init``, ``apply`` and so on. Whatever returns ``(logits, taps)``, with ``taps`` a dictionary
of the outputs of its blocks, can be trained with shortcuts. The parameters are plain arrays in dictionaries, one
``kernel`` and one ``bias`` for each tap: they go through ``jax.grad``, optax and any checkpoint like those of the
network, and inference leaves them out.

Example:
    >>> def net(weights, x):
    ...     hidden = jnp.tanh(x @ weights[0])
    ...     return (hidden @ weights[1]).mean(0), {"hidden": hidden}
    >>> x, weights = jnp.ones((4, 2, 6)), (jnp.ones((6, 8)), jnp.ones((8, 10)))
    >>> params = init(jax.random.key(0), channels(net, weights, x, time_axis=0), num_classes=10)
    >>> logits, taps = net(weights, x)
    >>> apply(params, logits, taps, 0.25, time_axis=0).shape
    (2, 10)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import jax
import jax.numpy as jnp

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_core.taps import Channels, TapLayout, TimeAxis, resolve_time_axis
from sbp_jax.coefficient import scalar
from sbp_jax.initial import uniform
from sbp_jax.layers import pool
from sbp_jax.taps import arrange, as_main, gather, shapes

Params = dict[str, dict[str, jax.Array]]


class Axes(TypedDict, total=False):
    """How tapped outputs lie.

    Attributes:
        time_axis: where time is, which must be said: 0 for ``(time, batch, ..., channels)``, 1 for ``(batch, time, ...,
            channels)``, None for no time, "merged" for ``(time * batch, ..., channels)``.
        channels: where the channels are: "last" unless given, "first" (before the axes of space), or an axis.
        time_steps: how many steps are merged.
    """

    time_axis: TimeAxis
    channels: Channels
    time_steps: int


def channels(function: Callable[..., Any], *inputs: Any, **axes: Unpack[Axes]) -> dict[str, int]:
    """Return the channels of everything that ``function(*inputs)`` taps, by shape alone: nothing is computed.

    Args:
        function: what returns ``(logits, taps)``.
        *inputs: its arguments: arrays, or ``jax.ShapeDtypeStruct`` in their place; what holds none, flags for one,
            and modules of Equinox pass as they are.
        **axes: ``time_axis``, and ``channels`` and ``time_steps`` where needed: see :class:`Axes`.

    Raises:
        TypeError: it returns something else.
        ValueError: no ``time_axis``, or a tapped output that does not lie so.
    """
    layout = _layout(**axes)

    def arranged(*inputs: Any) -> dict[str, jax.Array]:
        result = function(*inputs)
        pair = isinstance(result, tuple) and len(result) == 2
        if not (pair and isinstance(result[0], jax.Array) and isinstance(result[1], Mapping)):
            raise TypeError(f"function must return (logits, taps), it returned {type(result).__name__}")
        main, tapped = result
        return {tap: arrange(tap, x, layout, main, main.shape[-1])[0] for tap, x in tapped.items()}

    return {tap: int(x.shape[-1]) for tap, x in shapes(arranged, *inputs).items()}


def init(key: jax.Array, channels: Mapping[str, int], num_classes: int, *, dtype: Any = jnp.float32) -> Params:
    """Return the parameters of one branch for each tap, uniform in ``±1 / sqrt(channels)`` as in every linear layer.

    Args:
        key: a random key.
        channels: the channels of each tap, by name; :func:`channels` finds them.
        num_classes: outputs of each branch.
        dtype: dtype of the parameters.

    Raises:
        ValueError: no tap, or a size less than 1.
        TypeError: a size that is no integer.
    """
    spec = ShortcutSpec(taps=tuple(channels))
    validation.count("num_classes", num_classes)
    params: Params = {}
    for tap, branch_key in zip(spec.taps, jax.random.split(key, len(spec.taps)), strict=True):
        inputs = validation.count(f"channels[{tap!r}]", channels[tap])
        draw, (kernel, bias) = uniform(inputs), jax.random.split(branch_key)
        params[tap] = {"kernel": draw(kernel, (inputs, num_classes), dtype), "bias": draw(bias, (num_classes,), dtype)}
    return params


def apply(
    params: Params,
    main: jax.Array,
    tapped: Mapping[str, jax.Array],
    coefficient: Any,
    **axes: Unpack[Axes],
) -> jax.Array:
    """Return ``o_final = b_n + coefficient * sum_l b_l`` (Guo et al. 2024, Eq. 6-10).

    Args:
        params: of :func:`init`.
        main: the main logits ``b_n``, ``(batch, classes)``, or of each step, with time where the taps have it.
        tapped: outputs of the tapped blocks by name; it may hold more than there are branches.
        coefficient: lambda, a number or a scalar array, traced or not.
        **axes: ``time_axis``, and ``channels`` and ``time_steps`` where needed: see :class:`Axes`.

    Raises:
        ValueError: no ``time_axis``, a tap that is missing, a shape that does not fit, logits of other classes than the
            branches', or a coefficient that is not a finite scalar.
    """
    _, branches = outputs(params, main, tapped, **axes)
    summed: jax.Array = sum_logits(main, branches, scalar(coefficient, main.dtype))
    return summed


def outputs(
    params: Params,
    main: jax.Array,
    tapped: Mapping[str, jax.Array],
    **axes: Unpack[Axes],
) -> ShortcutOutput:
    """Return main and branch logits apart, for :class:`~sbp_jax.ShortcutLoss`; arguments as in :func:`apply`.

    Raises:
        ValueError: as in :func:`apply`.
    """
    layout = _layout(**axes)
    # dictionaries come back from jax in the order of their keys: every function here goes by name
    ShortcutSpec(taps=tuple(params)).check_taps(tapped)
    branches = []
    for tap, branch in params.items():
        size, classes = branch["kernel"].shape
        x, form = arrange(tap, tapped[tap], layout, main, classes, size)
        branches.append(as_main(pool(x) @ branch["kernel"] + branch["bias"], form, layout.time_axis))
    return ShortcutOutput(main, tuple(branches))


def from_linen(
    intermediates: Mapping[str, Any], taps: Sequence[str], *, time_axis: Literal["calls"] | None = None
) -> dict[str, jax.Array]:
    """Return the outputs of named Linen modules from what ``capture_intermediates`` collected.

    ``logits, state = net.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])``, then
    ``from_linen(state["intermediates"], ("layer1", "layer2.Dense_0"))``. What is collected and not used costs nothing
    under ``jit``.

    Args:
        intermediates: the collection.
        taps: paths of modules, with dots.
        time_axis: "calls" where each call of a module is a step; they are then stacked along a leading axis of time.

    Raises:
        ValueError: a module that does not exist or did not run, or calls of several shapes.
        RuntimeError: a module that ran more than once.
        TypeError: a module that gave no array.
    """
    found = dict(_linen_outputs(intermediates))
    spec = ShortcutSpec(taps=tuple(taps))
    spec.check_taps(found)
    return {tap: gather(tap, found[tap], None, time_axis) for tap in spec.taps}


def _layout(
    time_axis: TimeAxis | Literal["stated"] = "stated", channels: Channels = "last", time_steps: int | None = None
) -> TapLayout:
    place = resolve_time_axis(time_axis, (), "a function", allowed=(0, 1, None, "merged"), channels=channels)
    return TapLayout(time_axis=place, channels=channels, time_steps=time_steps)


def _linen_outputs(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _linen_outputs(value, (*path, name))
        elif name == "__call__" and path:
            yield ".".join(path), value
