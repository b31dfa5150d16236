"""Faults of single layers, in networks that have them: a layer's numbers, its kind, its layout, the order of paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from sbp_conformance.mutants.base import Change, Mutant
from sbp_conformance.mutants.networks import Arguments, Arrays, given
from sbp_core import CustomSpec, NetworkSpec
from sbp_core.specs.joins import And, Attention, JoinSpec
from sbp_core.specs.layers import AvgPool, BatchNorm, LayerSpec, MaxPool, Neuron
from sbp_core.specs.structure import Parallel, Residual, Sequence

#: A layer or a join to what stands in its place.
Rewrite = Callable[[Any], Any]


def rewritten(spec: NetworkSpec, change: Rewrite) -> NetworkSpec:
    """Return the network with ``change`` made to each of its layers and joins."""
    size = None if None in spec.image_size else spec.image_size
    return CustomSpec(
        layers=_layer(spec.body, change),
        size=size,  # type: ignore[arg-type]
        num_classes=spec.num_classes,
        in_channels=spec.in_channels,
        time_steps=spec.time_steps,
    )


def _layer(layer: Any, change: Rewrite) -> Any:
    if isinstance(layer, Sequence):
        return Sequence(layers=tuple((name, _layer(part, change)) for name, part in layer.layers))
    if isinstance(layer, Residual):
        return dataclasses.replace(
            layer,
            body=_layer(layer.body, change),
            shortcut=None if layer.shortcut is None else _layer(layer.shortcut, change),
            join=change(layer.joined),
            after=None if layer.after is None else _layer(layer.after, change),
        )
    if isinstance(layer, Parallel):
        paths = tuple((name, _layer(part, change)) for name, part in layer.paths)
        return dataclasses.replace(layer, paths=paths, join=change(layer.joined))
    return change(layer)


def _every(kind: type[LayerSpec | JoinSpec], other: Callable[[Any], Any]) -> Change:
    """Return the fault of every layer of a kind, in place of which stands ``other(layer)``."""

    def alter(a: Arguments) -> Arguments:
        spec = rewritten(a["network"].spec, lambda layer: other(layer) if isinstance(layer, kind) else layer)
        return {"network": a["network"]._replace(spec=spec)}

    return given(alter)


def _weights(change: Callable[[str, Any], Any]) -> Change:
    return given(lambda a: {"weights": {name: change(name, array) for name, array in a["weights"].items()}})


def _renamed(first: str, second: str) -> Change:
    """Return the fault of two paths that stand for each other."""

    def swapped(name: str) -> str:
        parts = [second if part == first else first if part == second else part for part in name.split(".")]
        return ".".join(parts)

    def alter(a: Arguments) -> Arguments:
        weights: Arrays = a["weights"]
        # where both have the weight, and of one shape
        return {
            "weights": {
                name: other if np.shape(other := weights.get(swapped(name), array)) == np.shape(array) else array
                for name, array in weights.items()
            }
        }

    return given(alter)


def _flattened_channels_last(name: str, array: Any) -> Any:
    # what a linear layer behind the maps of VGGSNN reads, in another order: 5 channels of 2x1
    if name != "main.head.weight":
        return array
    return np.moveaxis(np.reshape(array, (len(array), 5, -1)), 1, 2).reshape(array.shape)


def _sizes(pool: MaxPool | AvgPool) -> dict[str, Any]:
    return {"kernel": pool.kernel, "stride": pool.stride, "padding": pool.padding}


def _voters_apart(name: str, array: Any) -> Any:
    # each class's voters lie apart, and not side by side
    if not name.startswith("main.head.fc."):
        return array
    return np.swapaxes(np.reshape(array, (4, 3, *np.shape(array)[1:])), 0, 1).reshape(array.shape)


def _of(changes: dict[str, Change], *cases: str) -> tuple[Mutant, ...]:
    return tuple(
        Mutant(
            name=f"layers: {name}", kind="layers", level="network", seam="network", change=change,
            cases=tuple(f"network-{case}" for case in cases),
        )
        for name, change in changes.items()
    )  # fmt: skip


MUTANTS: tuple[Mutant, ...] = (
    *_of(
        {
            "attention 0.1% off": _every(Attention, lambda join: join.replace(scale=1.001 * join.scale)),
            "attention of half as many heads": _every(Attention, lambda join: join.replace(heads=join.heads // 2)),
            "queries and keys of the attention swapped": _renamed("q", "k"),
            "keys and values of the attention swapped": _renamed("k", "v"),
            "the attention's neuron with the others' threshold": _every(
                Neuron, lambda layer: Neuron(spec=layer.spec.replace(threshold=1.0))
            ),
        },
        "spikformer_cifar",
    ),
    *_of({"queries and keys of the gate swapped": _renamed("q", "k")}, "qkformer_cifar"),
    *_of(
        {
            "spikes joined as they are": _every(JoinSpec, lambda join: And()),
            "a block's convolutions swapped": _renamed("conv1", "conv2"),
        },
        "sew_resnet18",
    ),
    *_of({"a max pool of the mean": _every(MaxPool, lambda layer: AvgPool(**_sizes(layer)))}, "max_resnet18"),
    *_of(
        {
            "a mean pool of the largest": _every(AvgPool, lambda layer: MaxPool(**_sizes(layer))),
            "maps flattened channels last": _weights(_flattened_channels_last),
            "a bias left out": _weights(lambda name, w: 0.0 * w if name.endswith("conv1.bias") else w),
        },
        "vggsnn",
    ),
    *_of(
        {
            "factors of the steps in the other order": _weights(
                lambda name, w: w[::-1] if name.endswith(".scale.weight") else w
            ),
            "batch norm's epsilon 10 times as large": _every(
                BatchNorm, lambda layer: layer.replace(epsilon=10.0 * layer.epsilon)
            ),
        },
        "resnet20",
    ),
    *_of({"voters apart": _weights(_voters_apart)}, "dvs_gesture"),
)
