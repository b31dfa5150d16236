"""Where the gradient goes: its size at every layer, with and without branches, before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbp_lab import trainers
from sbp_lab.checks import check
from sbp_lab.data import Source
from sbp_lab.loader import Loader
from sbp_lab.recipe import Recipe
from sbp_lab.starts import first_weights
from sbp_lab.training.setup import options_of


def gradient_norms(recipe: Recipe, methods: Sequence[str], source: Source) -> dict[str, dict[str, float]]:
    """Return the L2 norm of the gradient of every convolution and linear layer, on the seed's first batch as stored.

    Each method differentiates at its first coefficient, ``schedule(0)``, with the same initial weights.

    Returns:
        Method to canonical layer name (``stem.conv``, ``layer1.0.conv1``, ...) to norm, from the input to the output.

    Raises:
        ValueError: an unknown method, a network of the user's own, or one that does not fit the data.
        ModuleNotFoundError: the backend's framework is not installed.
    """
    build = trainers.load(recipe.backend).make_trainer
    with Loader(
        source, batch_size=recipe.batch_size, seed=recipe.seed, frames=recipe.frames, size=recipe.size
    ) as loader:
        images, labels = next(loader.epoch(1))
    norms: dict[str, dict[str, float]] = {}
    for name in methods:
        given = recipe.with_method(name)
        network = check(given, source)
        if network is None:
            raise ValueError(f"net must be one of the zoo for this, got {recipe.net!r}")
        options = options_of(given, network, events=source.events)
        trainer = build(network, first_weights(given, network, source, options.taps), options)
        coefficient = 0.0 if given.schedule is None else given.schedule.resolve(total_steps=1)(0)
        gradients = trainer.gradients(images, labels, coefficient)
        norms[name] = {
            weight.removesuffix(".weight"): float(np.linalg.norm(np.asarray(gradients[weight], np.float64)))
            for weight, shape in network.parameter_shapes().items()
            if len(shape) > 1
        }
    return norms
