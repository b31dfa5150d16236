"""What a tapped block is read out by: the paper's branch, a convolutional one, or one of your own.

As modules here; as pure functions, for whatever returns ``(logits, taps)``, in :mod:`sbp_jax.pure`, whose names are
here too: ``sbp_jax.branches.init``, ``apply``, ``outputs``, ``channels`` and ``from_linen``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core import validation
from sbp_core.specs.branches import branch_layers
from sbp_core.specs.layers import Shape
from sbp_jax.initial import uniform
from sbp_jax.layers import Chain, Options, pool
from sbp_jax.pure import Params, apply, channels, from_linen, init, outputs

__all__ = [
    "Branch",
    "ConvolutionalBranch",
    "LinearBranch",
    "Params",
    "apply",
    "channels",
    "check_branch",
    "from_linen",
    "init",
    "make_branch",
    "outputs",
]

#: A branch by name, or a function ``(channels, num_classes, *, rngs)`` that makes one.
Branch = Literal["linear", "convolutional"] | Callable[..., nnx.Module]


class LinearBranch(nnx.Linear):
    """Global average pooling and a linear layer (Guo et al. 2024, section 4), at each step.

    Args:
        channels: of what it taps.
        num_classes: outputs.
        dtype: dtype of the computation; None to follow from input and parameters.
        param_dtype: dtype of the parameters.
        rngs: random keys of the initial weights.
    """

    def __init__(
        self, channels: int, num_classes: int, *, dtype: Any = None, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        initial: Any = {"kernel_init": uniform(channels), "bias_init": uniform(channels)}
        super().__init__(channels, num_classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs, **initial)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return logits at each step, ``(time, batch, classes)``, of ``(time, batch, ..., channels)``."""
        logits: jax.Array = super().__call__(pool(inputs), out_sharding)
        return logits


class ConvolutionalBranch(Chain):
    """A small convolutional head: 3-wide convolution, batch norm and ReLU; then pooling and a linear layer.

    One convention for all frameworks: stride 1, padding 1, no bias; batch norm over time, batch and space.

    Args:
        channels: of what it taps, and of its convolution.
        num_classes: outputs.
        space: the number of axes of space, at least 1.
        dtype: dtype of the computation; None to follow from input and parameters.
        param_dtype: dtype of the parameters.
        rngs: random keys of the initial weights.

    Raises:
        ValueError: no axis of space.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        space: int = 2,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if space < 1:
            raise ValueError("branch 'convolutional' needs a tapped output with axes of space; take 'linear'")
        layers = branch_layers("convolutional", channels, num_classes)
        options = Options(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        super().__init__(layers, "", Shape(channels, (None,) * space), options)


def check_branch(branch: object) -> None:
    """Raise unless ``branch`` is a name or a function.

    Raises:
        ValueError: an unknown name.
        TypeError: a module, which would be shared by the taps.
    """
    if isinstance(branch, nnx.Module):
        raise TypeError(f"branch must be a name or a function that makes a module, got a {type(branch).__name__}")
    if not callable(branch):
        validation.choice("branch", branch, ("linear", "convolutional"))  # type: ignore[arg-type]


def make_branch(
    branch: Branch, channels: int, space: int, num_classes: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs
) -> nnx.Module:
    """Return the branch of a tap with so many channels and axes of space.

    Raises:
        ValueError: a convolutional branch without space.
        TypeError: the function returned something other than a module.
    """
    if branch == "linear":
        return LinearBranch(channels, num_classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
    if branch == "convolutional":
        return ConvolutionalBranch(channels, num_classes, space=space, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
    module = branch(channels, num_classes, rngs=rngs)
    if not isinstance(module, nnx.Module):
        raise TypeError(f"branch must return an nnx.Module, it returned {type(module).__name__}")
    return module
