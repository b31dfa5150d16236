"""The network of any :class:`~sbp_core.NetworkSpec` as ``flax.nnx`` modules, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core import validation
from sbp_core.inputs import network_time_axis
from sbp_core.specs.networks import NetworkSpec, network_spec, resnet18_spec, resnet34_spec
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_jax.layers import Options, add_layers, run


class Network(nnx.Module):
    """A spiking network; its conventions and parameters: :class:`~sbp_core.NetworkSpec`.

    Its parts are attributes by their names, ``stem``, ``layer1``, ``head`` of a ResNet say, and so are theirs.
    ``model.train()`` and ``model.eval()`` switch batch norm and dropout.

    Args:
        spec: the network.
        per_step: give the logits of each step, ``(time, batch, num_classes)``, and not their average: the last layer,
            the mean over time, is left out.
        dtype: dtype of the computation; None to follow from images and parameters.
        param_dtype: dtype of the parameters.
        rngs: random keys of the initial weights, and of dropout.

    Raises:
        ValueError: ``per_step`` of a network that does not end in a mean over time; layers that do not fit each other.
        TypeError: not a spec, or ``per_step`` not a bool.

    Example:
        >>> net = Network(resnet18_spec(widths=(4, 4, 8, 8), time_steps=2), rngs=nnx.Rngs(0))
        >>> logits, tapped = net(jnp.ones((2, 8, 8, 3)), taps=("layer3",))
        >>> logits.shape, tapped["layer3"].shape
        ((2, 10), (2, 2, 2, 2, 8))
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        per_step: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(spec, NetworkSpec):
            raise TypeError(f"spec must be a NetworkSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec = spec
        self.per_step = validation.flag("per_step", per_step)
        layers = spec.layers_of(per_step=self.per_step)
        self._names = tuple(name for name, _ in layers)
        options = Options(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        add_layers(self, layers, "", spec.input_shape(timed=not spec.repeats), options)

    @overload
    def __call__(
        self, images: jax.Array, *, taps: None = None, time_axis: Literal[0, 1] | None = None
    ) -> jax.Array: ...

    @overload
    def __call__(
        self, images: jax.Array, *, taps: Sequence[str], time_axis: Literal[0, 1] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def __call__(
        self, images: jax.Array, *, taps: Sequence[str] | None = None, time_axis: Literal[0, 1] | None = None
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Return the logits, ``(batch, num_classes)``; with ``taps``, also the outputs of those parts.

        The logits are ``(time, batch, num_classes)`` if they are ``per_step``.

        Args:
            images: still images ``(batch, height, width, channels)``, each encoded once and repeated
                ``spec.time_steps`` times; or event frames ``(time, batch, height, width, channels)``, each encoded.
            taps: parts whose output, ``(time, batch, ..., channels)``, is returned by name.
            time_axis: where time is in event frames, 0 or 1; needed where they are batch first, have another number of
                steps than the spec, or as many samples as steps.

        Raises:
            ValueError: images of another rank or with other channels, of a size that the network does not take, frames
                whose time is not where it should be, or a tap that does not exist.
            TypeError: integer images.
        """
        x = jnp.asarray(images)
        place = network_time_axis(self.spec, x.shape, x.dtype.name, channels="last", time_axis=time_axis)
        wanted = tuple(taps or ())
        if wanted:
            ShortcutSpec(taps=wanted).check_taps(self.spec.tap_channels)
        if place is not None:
            x = jnp.moveaxis(x, place, 0)
        tapped = {}
        for name in self._names:
            x = run(self, (name,), x)
            if name in wanted:
                tapped[name] = x
        return x if taps is None else (x, tapped)


#: A :class:`Network` of a :class:`~sbp_core.ResNetSpec`, under the name that it had first.
ResNet = Network


def network(
    name: str | NetworkSpec,
    *,
    per_step: bool = False,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **fields: Any,
) -> Network:
    """Return a network of the zoo by its name, or of a spec.

    Args:
        name: one of :data:`sbp_core.specs.networks.ZOO`'s, or a spec.
        per_step: give the logits of each step.
        dtype: as of a :class:`Network`.
        param_dtype: as of a :class:`Network`.
        rngs: as of a :class:`Network`.
        **fields: of the spec, what is to be otherwise.

    Raises:
        ValueError: an unknown name, or a field out of range.
        TypeError: an unknown field, or one of the wrong type.

    Example:
        >>> network("resnet20", num_classes=100, rngs=nnx.Rngs(0)).spec.parameter_count
        278324
    """
    spec = name.replace(**fields) if isinstance(name, NetworkSpec) else network_spec(name, **fields)
    return Network(spec, per_step=per_step, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def resnet18(
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **fields: Any,
) -> Network:
    """Return a spiking ResNet-18; ``fields`` are those of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """
    spec = resnet18_spec(num_classes=num_classes, time_steps=time_steps, **fields)
    return Network(spec, per_step=per_step, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def resnet34(
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **fields: Any,
) -> Network:
    """Return a spiking ResNet-34; ``fields`` are those of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """
    spec = resnet34_spec(num_classes=num_classes, time_steps=time_steps, **fields)
    return Network(spec, per_step=per_step, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
