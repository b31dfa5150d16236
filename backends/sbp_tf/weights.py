"""Weights under the canonical names and layouts of :meth:`sbp_core.ResNetSpec.parameter_shapes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sbp_tf.modules import ConvolutionalReadout, Readout
from sbp_tf.networks import ResNet
from sbp_tf.shortcut import Shortcut

# a native axis for each canonical one: HWIO to OIHW, (in, out) to (out, in)
_TO_CANONICAL = {4: (3, 2, 0, 1), 2: (1, 0)}
_TO_NATIVE = {4: (2, 3, 1, 0), 2: (1, 0)}


def export_weights(net: ResNet | Shortcut) -> dict[str, NDArray[Any]]:
    """Return every parameter and running statistic by its canonical name and in its canonical layout.

    A shortcut model's are ``main.<name>``, ``branches.<tap>.weight``, (classes, channels), and ``branches.<tap>.bias``.

    Raises:
        TypeError: neither a ResNet nor a shortcut model of one.

    Example:
        >>> import sbp_tf
        >>> export_weights(sbp_tf.resnet18(widths=(4, 4, 4, 8)))["head.weight"].shape
        (10, 8)
    """
    return {
        name: np.asarray(np.transpose(variable.numpy(), _TO_CANONICAL.get(len(variable.shape))))
        for name, variable in _variables(net).items()
    }


def import_weights(net: ResNet | Shortcut, weights: Mapping[str, Any]) -> None:
    """Set every parameter and running statistic; ``weights`` is as :func:`export_weights` gives it.

    Nothing is written unless everything fits.

    Raises:
        ValueError: a name that is missing or unknown, an array of another shape, or one that holds no numbers.
        TypeError: neither a ResNet nor a shortcut model of one.
    """
    variables = _variables(net)
    for problem, names in (("lacks", variables.keys() - weights.keys()), ("has unknown", weights.keys() - variables)):
        if names:
            raise ValueError(f"weights {problem} {', '.join(sorted(names))}")
    values = {name: _native(name, variable, weights[name]) for name, variable in variables.items()}
    for name, variable in variables.items():
        variable.assign(values[name])


def _native(name: str, variable: tf.Variable, weight: Any) -> tf.Tensor:
    array = np.asarray(weight)
    native = tuple(variable.shape)
    wanted = tuple(native[axis] for axis in _TO_CANONICAL.get(len(native), range(len(native))))
    if array.shape != wanted:
        raise ValueError(f"weights[{name!r}] must have shape {wanted}, got {array.shape}")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise ValueError(f"weights[{name!r}] must hold real numbers, got {array.dtype}")
    return tf.cast(tf.convert_to_tensor(np.transpose(array, _TO_NATIVE.get(array.ndim))), variable.dtype)


def _variables(net: ResNet | Shortcut) -> dict[str, tf.Variable]:
    if isinstance(net, ResNet):
        return {name: _find(net, name) for name in net.spec.parameter_shapes()}
    if not isinstance(net, Shortcut) or not isinstance(net.main, ResNet):
        raise TypeError(f"net must be a ResNet or a Shortcut of one, got {type(net).__name__}")
    variables = {f"main.{name}": variable for name, variable in _variables(net.main).items()}
    for tap in net.spec.taps:
        variables |= {f"branches.{tap}.{name}": variable for name, variable in _parts(tap, net.branches[tap]).items()}
    return variables


def _parts(tap: str, branch: Any) -> dict[str, tf.Variable]:
    parts = {}
    if isinstance(branch, ConvolutionalReadout):
        norm = {name: getattr(branch.bn, name) for name in ("weight", "bias", "running_mean", "running_var")}
        parts = {"conv.weight": branch.conv.weight} | {f"bn.{name}": variable for name, variable in norm.items()}
        branch = branch.readout
    if not isinstance(branch, Readout):
        raise TypeError(
            f"branch of tap {tap!r} must be a Readout or a ConvolutionalReadout, got {type(branch).__name__}"
        )
    return parts | {"weight": branch.weight, "bias": branch.bias}


def _find(net: ResNet, name: str) -> tf.Variable:
    found: Any = net
    for part in name.split("."):
        found = found.blocks[int(part)] if part.isdigit() else getattr(found, part)
    return found
