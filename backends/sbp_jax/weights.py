"""Weights in and out under the names and layouts that all frameworks share (:mod:`sbp_core.weights`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sbp_core import weights as shared
from sbp_core.weights import Array
from sbp_jax.layers import TimeScale
from sbp_jax.networks import Network
from sbp_jax.neurons import LIF
from sbp_jax.shortcut import Shortcut


def export_weights(net_or_model: Network | Shortcut[Any]) -> dict[str, Array]:
    """Return every parameter and running statistic by its canonical name, in the layout of ``NetworkSpec``.

    Kernels are (outputs, inputs, *space). A :class:`Network` has the names of ``spec.parameter_shapes()``; a
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
        for name, variable in variables(net_or_model).items()
    }


def import_weights(net_or_model: Network | Shortcut[Any], weights: Mapping[str, Array]) -> None:
    """Write what :func:`export_weights` returned, of this or another framework, in the dtypes that the network has.

    Everything is checked before anything is written. The network may be one that has shapes only,
    ``nnx.eval_shape(lambda: resnet18(rngs=nnx.Rngs(0)))``, which spares drawing and compiling initial weights; one with
    dropout then needs ``nnx.reseed(net, default=0)`` too.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
        TypeError: another network, or weights that are not floating.
    """
    held = variables(net_or_model)
    axes = {name: shared.to_canonical(variable.ndim) for name, variable in held.items()}
    canonical = {name: tuple(variable.shape[axis] for axis in axes[name]) for name, variable in held.items()}
    for name, array in shared.checked(canonical, weights).items():
        native = np.transpose(array, np.argsort(axes[name]))
        held[name].set_value(jnp.array(native, held[name].dtype))


def save(path: str | PathLike[str], model: Network | Shortcut[Any], *, notes: Mapping[str, str] | None = None) -> None:
    """Write a network to one safetensors file: weights, running statistics, branches if there are any, and its spec.

    Args:
        path: the file; a failure leaves what was there.
        model: a :class:`Network`, or a :class:`Shortcut` of one.
        notes: text by name, kept with it.

    Raises:
        TypeError: another network.
        OSError: the file cannot be written.
    """
    net = model.main if isinstance(model, Shortcut) else model
    shared.save_network(path, export_weights(model), getattr(net, "spec", None), notes)


def load(path: str | PathLike[str], *, per_step: bool = False, dtype: Any = None, param_dtype: Any = None) -> Network:
    """Build the network that :func:`save` of any adapter wrote, with its weights; branches are left out.

    Args:
        path: the file.
        per_step: give the logits of each step.
        dtype: dtype of the computation; None to follow from images and parameters.
        param_dtype: dtype of the parameters; float32 unless given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of a newer version, or not a network's; the message names the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from sbp_jax.networks import network
        >>> net = network("mlp", size=(8, 8), rngs=nnx.Rngs(0))
        >>> with TemporaryDirectory() as folder:
        ...     save(f"{folder}/net.safetensors", net)
        ...     again = load(f"{folder}/net.safetensors")
        >>> bool((again.head.kernel[...] == net.head.kernel[...]).all())
        True
    """
    spec, weights = shared.load_network(path)
    net = Network(spec, per_step=per_step, dtype=dtype, param_dtype=param_dtype or jnp.float32, rngs=nnx.Rngs(0))
    import_weights(net, weights)
    return net


def variables(net_or_model: Network | Shortcut[Any]) -> dict[str, nnx.Variable[Any]]:
    """Return the variables that :func:`export_weights` copies, by the same names.

    Raises:
        TypeError: another network.
    """
    if isinstance(net_or_model, Shortcut):
        found = {f"main.{name}": variable for name, variable in variables(net_or_model.main).items()}
        for tap, branch in zip(net_or_model.spec.taps, net_or_model.branches, strict=True):
            found |= dict(_named(branch, f"branches.{tap}"))
        return found
    if not isinstance(net_or_model, Network):
        raise TypeError(f"net_or_model must be a Network, or a Shortcut of one; got {type(net_or_model).__name__}")
    found = dict(_named(net_or_model))
    return {name: found[name] for name in net_or_model.spec.parameter_shapes()}


def _named(module: nnx.Module, prefix: str = "") -> Iterator[tuple[str, nnx.Variable[Any]]]:
    """Yield the variables of all layers in a module with their canonical names."""
    modules = dict(nnx.iter_modules(module))
    for path, layer in modules.items():
        # the list in a Sequential has no place in the canonical name
        listed = (part == "layers" and isinstance(modules[path[:at]], nnx.Sequential) for at, part in enumerate(path))
        place = [prefix] * bool(prefix) + [str(part) for part, out in zip(path, listed, strict=True) if not out]
        for part, attribute in _attributes(layer).items():
            yield ".".join((*place, part)), getattr(layer, attribute)


def _attributes(layer: nnx.Module) -> dict[str, str]:
    """Return the shared names of a layer's own variables, and the attributes that hold them."""
    if isinstance(layer, nnx.BatchNorm):
        return {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    if isinstance(layer, nnx.Conv | nnx.Linear):
        return {"weight": "kernel"} | ({"bias": "bias"} if layer.use_bias else {})
    if isinstance(layer, TimeScale):
        return {"weight": "weight"}
    if isinstance(layer, LIF):
        return {
            name: name for name in ("decay_logit", "initial_potential", "running_potential") if hasattr(layer, name)
        }
    return {}
