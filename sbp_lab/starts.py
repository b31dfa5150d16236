"""Where a run's weights start: as drawn, near the identity, or calibrated on its first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_core import NetworkSpec
from sbp_core.reference.networks import initial_weights
from sbp_core.signal import Calibration, identity_weights
from sbp_lab.data import Source
from sbp_lab.loader import Loader
from sbp_lab.recipe import Recipe

Array = NDArray[np.float32]


def first_weights(recipe: Recipe, spec: NetworkSpec, source: Source, taps: tuple[str, ...] = ()) -> dict[str, Array]:
    """Return the weights of a network, and of its branches, before the first step.

    Args:
        recipe: what is trained; its ``start``, ``seed``, ``branch`` and, for "calibrated", its first batch.
        spec: the network, as :meth:`Recipe.network` gives it.
        source: the data.
        taps: parts with a branch; then the names are those of :func:`sbp_core.reference.networks.initial_weights`.
    """
    start = recipe.applied.start
    drawn = initial_weights(spec, recipe.seed, taps, recipe.branch)
    if start == "default":
        return drawn
    prefix = "main." if taps else ""
    main = {name.removeprefix(prefix): value for name, value in drawn.items() if name.startswith(prefix)}
    if start == "identity":
        changed: Mapping[str, Any] = identity_weights(spec, main)
    else:
        changed = calibrated(recipe, spec, main, source).after
    return drawn | {prefix + name: value for name, value in changed.items()}


def calibrated(recipe: Recipe, spec: NetworkSpec, weights: Mapping[str, Array], source: Source) -> Calibration:
    """Calibrate a network in the recipe's framework, on the seed's first batch as stored.

    Args:
        recipe: what is trained.
        spec: the network.
        weights: fresh ones, by canonical name.
        source: the data.
    """
    with Loader(
        source, batch_size=recipe.batch_size, seed=recipe.seed, frames=recipe.frames, size=recipe.size
    ) as loader:
        images, _ = next(loader.epoch(1))
    return _CALIBRATE[recipe.backend](spec, weights, np.asarray(images, np.float32))


def time_first(images: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return images of a loader, or frames with time in front, with channels where they belong."""
    moved = np.moveaxis(images, 1, 0) if images.ndim == 5 else images
    return np.ascontiguousarray(np.moveaxis(moved, -1, channels))


def _torch(spec: NetworkSpec, weights: Mapping[str, Array], images: Array) -> Calibration:
    import sbp_torch

    net = sbp_torch.Network(spec)
    sbp_torch.import_weights(net, weights)
    return sbp_torch.calibrate(net, time_first(images, -3))


def _jax(spec: NetworkSpec, weights: Mapping[str, Array], images: Array) -> Calibration:
    from flax import nnx

    import sbp_jax

    net = sbp_jax.Network(spec, rngs=nnx.Rngs(0))
    sbp_jax.import_weights(net, weights)
    return sbp_jax.calibrate(net, time_first(images, -1))


def _keras(spec: NetworkSpec, weights: Mapping[str, Array], images: Array) -> Calibration:
    import sbp_keras

    net = sbp_keras.Network(spec, images.shape[1:])
    sbp_keras.import_weights(net, weights)
    return sbp_keras.calibrate(net, images)


_CALIBRATE: dict[str, Callable[[NetworkSpec, Mapping[str, Array], Array], Calibration]] = {
    "torch": _torch,
    "jax": _jax,
    "keras": _keras,
    "tf": _keras,
}
