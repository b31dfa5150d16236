"""Weights in and out under the names and layouts that all frameworks share (:mod:`sbp_core.weights`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sbp_core import weights as shared
from sbp_core.weights import Array
from sbp_jax.networks import ResNet
from sbp_jax.shortcut import Shortcut

# the shared name of a part, and the attribute that holds it in flax
_KERNEL = {"weight": "kernel", "bias": "bias"}
_BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def export_weights(net_or_model: ResNet | Shortcut[Any]) -> dict[str, Array]:
    """Return every parameter and running statistic by its canonical name, in the layout of ``ResNetSpec``.

    Kernels are (outputs, inputs, *space). A :class:`ResNet` has the names of ``spec.parameter_shapes()``; a
    :class:`Shortcut` of one has ``main.<name>`` and, of its branches, ``branches.<tap>.weight`` and ``.bias``, or
    ``branches.<tap>.conv.weight``, ``.bn.weight`` and so on, and ``.linear.weight``. :func:`sbp_core.weights.save`
    writes them to a file.

    Raises:
        TypeError: another network, whose weights have no shared names.

    Example:
        >>> from sbp_jax import resnet18
        >>> weights = export_weights(resnet18(widths=(4, 4, 8, 8), rngs=nnx.Rngs(0)))
        >>> weights["stem.conv.weight"].shape, weights["head.weight"].shape
        ((4, 3, 3, 3), (10, 8))
    """
    return {
        name: np.transpose(np.asarray(variable[...]), shared.to_canonical(variable.ndim))
        for name, variable in _variables(net_or_model).items()
    }


def import_weights(net_or_model: ResNet | Shortcut[Any], weights: Mapping[str, Array]) -> None:
    """Write what :func:`export_weights` returned, of this or another framework, in the dtypes that the network has.

    Everything is checked before anything is written. The network may be one that has shapes only,
    ``nnx.eval_shape(lambda: resnet18(rngs=nnx.Rngs(0)))``, which spares drawing and compiling initial weights.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
        TypeError: another network, or weights that are not floating.
    """
    variables = _variables(net_or_model)
    axes = {name: shared.to_canonical(variable.ndim) for name, variable in variables.items()}
    canonical = {name: tuple(variable.shape[axis] for axis in axes[name]) for name, variable in variables.items()}
    for name, array in shared.checked(canonical, weights).items():
        native = np.transpose(array, np.argsort(axes[name]))
        variables[name].set_value(jnp.array(native, variables[name].dtype))


def _variables(model: object) -> dict[str, nnx.Variable[Any]]:
    if isinstance(model, Shortcut):
        found = {f"main.{name}": variable for name, variable in _variables(model.main).items()}
        for tap, branch in zip(model.spec.taps, model.branches, strict=True):
            found |= _held(branch, f"branches.{tap}")
        return found
    if not isinstance(model, ResNet):
        raise TypeError(f"net_or_model must be a ResNet, or a Shortcut of one; got {type(model).__name__}")
    found = _held(model)
    return {name: found[name] for name in model.spec.parameter_shapes()}


def _held(module: nnx.Module, prefix: str = "") -> dict[str, nnx.Variable[Any]]:
    """Return the variables of all layers in a module by their canonical names."""
    return {name: getattr(layer, attribute) for name, layer, attribute in _named(module, prefix)}


def _named(module: nnx.Module, prefix: str) -> Iterator[tuple[str, nnx.Module, str]]:
    for path, layer in nnx.iter_modules(module):
        # a stage is a Sequential: its list of blocks has no place in the canonical name
        place = [prefix] * bool(prefix) + [str(part) for part in path if part != "layers"]
        if isinstance(layer, nnx.BatchNorm):
            parts = _BATCH_NORM
        elif isinstance(layer, nnx.Conv | nnx.Linear):
            parts = _KERNEL if layer.use_bias else {"weight": "kernel"}
        else:
            parts = {"decay_logit": "decay_logit"} if hasattr(layer, "decay_logit") else {}
        for part, attribute in parts.items():
            yield ".".join((*place, part)), layer, attribute
