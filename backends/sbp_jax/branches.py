"""Shortcut branches as pure functions of a pytree: for Equinox and Linen modules, and for functions of your own.

Whatever returns ``(logits, taps)``, with ``taps`` a dictionary of the outputs of its blocks, can be trained with
shortcuts. The parameters are plain arrays in dictionaries, one ``kernel`` and one ``bias`` for each tap: they go
through ``jax.grad``, optax and any checkpoint like those of the network, and inference leaves them out.

Example:
    >>> def net(weights, x):
    ...     hidden = jnp.tanh(x @ weights[0])
    ...     return (hidden @ weights[1]).mean(0), {"hidden": hidden}
    >>> x, weights = jnp.ones((4, 2, 6)), (jnp.ones((6, 8)), jnp.ones((8, 10)))
    >>> params = init(jax.random.key(0), channels(net, weights, x), num_classes=10)
    >>> logits, taps = net(weights, x)
    >>> apply(params, logits, taps, 0.25).shape
    (2, 10)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_jax.layers import uniform
from sbp_jax.readout import TimeAxis, arrange, check_axes, over_time, pool
from sbp_jax.shortcut import scalar

Params = dict[str, dict[str, jax.Array]]


def channels(
    function: Callable[..., Any], *inputs: Any, time_axis: TimeAxis = 0, channel_axis: int = -1
) -> dict[str, int]:
    """Return the channels of everything that ``function(*inputs)`` taps, by shape alone: nothing is computed.

    Args:
        function: what returns ``(logits, taps)``.
        *inputs: its arguments: arrays, or ``jax.ShapeDtypeStruct`` in their place; modules of Equinox pass as they are.
        time_axis: where time is in the tapped outputs: 0, 1 or None.
        channel_axis: where their channels are.

    Raises:
        TypeError: it returns something else.
        ValueError: a tapped output without such axes.
    """
    check_axes(time_axis, channel_axis)
    leaves, tree = jax.tree.flatten(inputs)
    held = {place: leaf for place, leaf in enumerate(leaves) if not hasattr(leaf, "dtype")}
    arrays = [leaf for leaf in leaves if hasattr(leaf, "dtype")]

    def taps(arrays: Sequence[Any]) -> dict[str, Any]:
        rest = iter(arrays)
        filled = [held[place] if place in held else next(rest) for place in range(len(leaves))]
        result = function(*jax.tree.unflatten(tree, filled))
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
            raise TypeError(f"function must return (logits, taps), it returned {type(result).__name__}")
        return {tap: arrange(tap, x, None, time_axis, channel_axis) for tap, x in result[1].items()}

    return {tap: x.shape[-1] for tap, x in jax.eval_shape(taps, arrays).items()}


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
    *,
    time_axis: TimeAxis = 0,
    channel_axis: int = -1,
) -> jax.Array:
    """Return ``o_final = b_n + coefficient * sum_l b_l`` (Guo et al. 2024, Eq. 6-10).

    Args:
        params: of :func:`init`.
        main: the main logits ``b_n``, ``(batch, classes)``, or of each step, ``(time, batch, classes)``.
        tapped: outputs of the tapped blocks by name, ``(time, batch, ..., channels)`` or as the axes say; it may hold
            more than there are branches.
        coefficient: lambda, a number or a scalar array, traced or not.
        time_axis: where time is in the tapped outputs: 0, 1 or None.
        channel_axis: where their channels are.

    Raises:
        ValueError: a tap that is missing, a shape that does not fit, or a coefficient that is not a finite scalar.
    """
    _, branches = outputs(params, main, tapped, time_axis=time_axis, channel_axis=channel_axis)
    summed: jax.Array = sum_logits(main, branches, scalar(coefficient, main.dtype))
    return summed


def outputs(
    params: Params,
    main: jax.Array,
    tapped: Mapping[str, jax.Array],
    *,
    time_axis: TimeAxis = 0,
    channel_axis: int = -1,
) -> ShortcutOutput:
    """Return main and branch logits apart, for :class:`~sbp_jax.ShortcutLoss`; arguments as in :func:`apply`.

    Raises:
        ValueError: a tap that is missing, or a shape that does not fit.
    """
    check_axes(time_axis, channel_axis)
    # dictionaries come back from jax in the order of their keys: every function here goes by name
    ShortcutSpec(taps=tuple(params)).check_taps(tapped)
    branches = []
    for tap, branch in params.items():
        x = pool(arrange(tap, tapped[tap], main.shape[-2], time_axis, channel_axis))
        branches.append(over_time(tap, x @ branch["kernel"] + branch["bias"], main))
    return ShortcutOutput(main, tuple(branches))


def from_linen(intermediates: Mapping[str, Any], taps: Sequence[str]) -> dict[str, jax.Array]:
    """Return the outputs of named Linen modules from what ``capture_intermediates`` collected.

    ``logits, state = net.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])``, then
    ``from_linen(state["intermediates"], ("layer1", "layer2.Dense_0"))``. What is collected and not used costs nothing
    under ``jit``.

    Args:
        intermediates: the collection.
        taps: paths of modules, with dots.

    Raises:
        ValueError: a module that does not exist or did not run, or that ran more than once.
    """
    found = dict(_linen_outputs(intermediates))
    spec = ShortcutSpec(taps=tuple(taps))
    spec.check_taps(found)
    for tap in spec.taps:
        if len(found[tap]) != 1:
            raise ValueError(f"tap {tap!r} ran {len(found[tap])} times in one call; tap a module that runs once")
    return {tap: found[tap][0] for tap in spec.taps}


def _linen_outputs(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, tuple[jax.Array, ...]]]:
    found = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _linen_outputs(value, (*path, name))
        elif name == "__call__" and path:
            found.append((".".join(path), value))
    return found
