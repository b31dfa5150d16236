"""A network with its branches and weights as a framework's model, to be measured there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_core import LossSpec, NetworkSpec
from sbp_core.signal import Diagnosis
from sbp_core.specs.branches import BranchName
from sbp_lab.starts import time_first

Batches = Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]


class Built(NamedTuple):
    """What is measured.

    Attributes:
        spec: the network.
        weights: by canonical name, of a Shortcut where there are taps.
        taps: parts with a branch.
        branch: what a branch is.
        loss: how branches join.
        coefficient: their weight.
        slopes: how many layers' gradients are held against the loss itself.
    """

    spec: NetworkSpec
    weights: Mapping[str, NDArray[np.float32]]
    taps: tuple[str, ...]
    branch: BranchName
    loss: LossSpec
    coefficient: float
    slopes: int = 0


def _torch(built: Built, batches: Batches) -> Diagnosis:
    import torch

    import sbp_torch

    model: torch.nn.Module = sbp_torch.Network(built.spec)
    if built.taps:
        combine = built.loss.combine
        shortcut = sbp_torch.Shortcut(
            model, built.taps, built.spec.num_classes, combine=combine, branch=built.branch, sample=_first(batches)
        )
        shortcut.set_coefficient(built.coefficient)
        model = shortcut
    sbp_torch.import_weights(model, built.weights)
    given = [(time_first(images, -3), labels) for images, labels in batches]
    return sbp_torch.diagnose(model, given, slopes=built.slopes)


def _first(batches: Batches) -> Any:
    import torch

    return torch.from_numpy(time_first(batches[0][0], -3).copy())


def _jax(built: Built, batches: Batches) -> Diagnosis:
    from flax import nnx

    import sbp_jax

    model: Any = sbp_jax.Network(built.spec, rngs=nnx.Rngs(0))
    if built.taps:
        options: dict[str, Any] = {"combine": built.loss.combine, "branch": built.branch, "rngs": nnx.Rngs(0)}
        model = sbp_jax.Shortcut(model, built.taps, built.spec.num_classes, **options)
    sbp_jax.import_weights(model, built.weights)
    given = [(time_first(images, -1), labels) for images, labels in batches]
    return sbp_jax.diagnose(model, given, coefficient=built.coefficient, slopes=built.slopes)


def _keras(built: Built, batches: Batches) -> Diagnosis:
    import sbp_keras

    model: Any = sbp_keras.Network(built.spec, batches[0][0].shape[1:])
    if built.taps:
        options: dict[str, Any] = {"combine": built.loss.combine, "branch": built.branch}
        model = sbp_keras.ShortcutModel(model, built.taps, built.spec.num_classes, **options)
        model.coefficient.assign(built.coefficient)
    sbp_keras.import_weights(model, built.weights)
    return sbp_keras.diagnose(model, batches, slopes=built.slopes)


#: Backend to what measures there.
DIAGNOSE: dict[str, Callable[[Built, Batches], Diagnosis]] = {
    "torch": _torch,
    "jax": _jax,
    "keras": _keras,
    "tf": _keras,
}
