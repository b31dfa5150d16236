"""Where the gradient goes: its size at every layer, with and without branches, before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbp_core import LossSpec, validation
from sbp_core.reference.networks import initial_weights
from sbp_lab import trainers
from sbp_lab.data import Dataset
from sbp_lab.methods import METHODS
from sbp_lab.trainers import TrainerOptions
from sbp_lab.training.old import Recipe, batches, check_batch_size


def gradient_norms(recipe: Recipe, methods: Sequence[str], seed: int, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Return the L2 norm of the gradient of every convolution and of the head, on the seed's first batch.

    Each method differentiates at its first coefficient, ``schedule(0)``, with the same initial weights.

    Returns:
        Method to canonical layer name (``stem.conv``, ``layer1.0.conv1``, ...) to norm, from the input to the output.

    Raises:
        ValueError: an unknown method or backend, or fewer training images than a batch.
        ModuleNotFoundError: the backend's framework is not installed.
    """
    check_batch_size(recipe.batch_size, dataset)
    build = trainers.load(recipe.backend).make_trainer
    images, labels = next(batches(dataset, recipe.batch_size, seed, 1))
    norms: dict[str, dict[str, float]] = {}
    for name in methods:
        schedule = METHODS[validation.choice("method", name, METHODS)].schedule
        taps = recipe.taps if schedule is not None else ()
        trainer = build(
            recipe.network,
            initial_weights(recipe.network, seed, taps),
            TrainerOptions(taps=taps, loss=LossSpec(combine=recipe.combine)),
        )
        coefficient = 0.0 if schedule is None else schedule.resolve(total_steps=1)(0)
        gradients = trainer.gradients(images, labels, coefficient)
        norms[name] = {
            weight.removesuffix(".weight"): float(np.linalg.norm(np.asarray(gradients[weight], np.float64)))
            for weight, shape in recipe.network.parameter_shapes().items()
            if len(shape) == 4 or weight == "head.weight"
        }
    return norms
