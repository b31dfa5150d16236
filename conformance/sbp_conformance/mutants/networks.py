"""Faults of a whole network and of its training: at the contract, and of the neuron inside a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sbp_conformance.mutants import fire, step
from sbp_conformance.mutants.base import Change, Mutant, mutants
from sbp_conformance.mutants.contract import after, before
from sbp_core import Constant, Evolutionary, LossSpec
from sbp_core.backend import NetworkResult, ShortcutNetwork, TrainingResult
from sbp_core.reference.network import ReferenceNetwork

Arguments = dict[str, Any]
Arrays = Mapping[str, Any]

_NETWORK = ("network", "weights", "batch", "coefficient")
_TRAINING = ("network", "weights", "batches", "schedule", "optimizer")
_SMALL = ("network-learnt-decay-clif", "network-imagenet-stem")


def given(alter: Callable[[Arguments], Arguments]) -> Change:
    """Return the change of some arguments of ``network``."""
    return before(alter, _NETWORK)


def result(alter: Callable[[NetworkResult, Arguments], Any]) -> Change:
    """Return the change of the result of ``network``."""
    return after(alter, _NETWORK)


def trained(alter: Callable[[TrainingResult, Arguments], Any]) -> Any:
    """Return the change of the result of ``training``."""
    return after(alter, _TRAINING)


def training(alter: Callable[[Arguments], Arguments]) -> Any:
    """Return the change of some arguments of ``training``."""
    return before(alter, _TRAINING)


def _spec(**fields: Any) -> Callable[[Arguments], Arguments]:
    return lambda a: {"network": a["network"]._replace(spec=a["network"].spec.replace(**fields))}


def _neuron(**fields: Any) -> Callable[[Arguments], Arguments]:
    def alter(a: Arguments) -> Arguments:
        spec = a["network"].spec
        return {"network": a["network"]._replace(spec=spec.replace(neuron=spec.neuron.replace(**fields)))}

    return alter


def _each(arrays: Arrays, chosen: Callable[[str], bool], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    return {name: change(name, array) if chosen(name) else array for name, array in arrays.items()}


def _kernel_transposed(a: Arguments) -> Arguments:
    def change(_: str, array: Any) -> Any:
        return np.swapaxes(array, -1, -2) if np.ndim(array) == 4 else array

    return {"weights": _each(a["weights"], lambda name: True, change)}


def _branch(name: str) -> bool:
    return name.startswith("branches.")


def _images(a: Arguments, change: Callable[[Any], Any]) -> Arguments:
    return {"batch": a["batch"]._replace(images=change(a["batch"].images))}


def _labels(a: Arguments) -> Arguments:
    return {"batch": a["batch"]._replace(labels=(a["batch"].labels + 1) % a["network"].spec.num_classes)}


def _moved(r: NetworkResult, a: Arguments, factor: float, part: str) -> NetworkResult:
    """Move the running statistics by another share of the way."""

    def change(name: str, array: Any) -> Any:
        old = np.asarray(a["weights"][name])
        return (old + factor * (array - old)).astype(array.dtype)

    return r._replace(statistics=_each(r.statistics, lambda name: name.endswith(part), change))


def _follows(name: str) -> bool:
    return name.endswith(".running_potential")


def _start_moved(factor: float) -> Any:
    return result(lambda r, a: _moved(r, a, factor, ".running_potential"))


def _started_at_rest(r: NetworkResult, a: Arguments) -> NetworkResult:
    """Evaluate with neurons that start from rest, whatever they follow."""
    network, rest = a["network"], a["network"].spec.neuron.rest
    weights = _each({**a["weights"], **r.statistics}, _follows, lambda _, value: np.full_like(value, rest))
    evaluated = ReferenceNetwork(network, weights).forward(np.asarray(a["batch"].images, np.float64), training=False)
    return r._replace(evaluated=evaluated.main.astype(r.evaluated.dtype))


def _every_neuron(right: Callable[..., Any], operations: Any) -> Callable[..., Any]:
    return lambda potential, spikes, *xp: right(potential, spikes * 0.0 + 1.0, *xp)


def _each_spike(right: Callable[..., Any], operations: Any) -> Callable[..., Any]:
    return lambda potential, spikes, *xp: ((spikes * potential).sum(), spikes.sum())


def _gradients(chosen: Callable[[str], bool], factor: float) -> Any:
    return result(
        lambda r, a: r._replace(gradients=_each(r.gradients, chosen, lambda _, g: (g * factor).astype(g.dtype)))
    )


def _tap_before(right: Callable[..., Any], operations: Any) -> Callable[..., Any]:
    """Feed the branch of layer1 with what goes into layer1, which is as wide."""

    def renamed(arrays: Arrays, old: str, new: str) -> dict[str, Any]:
        return {name.replace(f"branches.{old}.", f"branches.{new}."): array for name, array in arrays.items()}

    def network(network: ShortcutNetwork, weights: Arrays, *arguments: Any, **others: Any) -> Any:
        if "stem" in network.taps:
            return right(network, weights, *arguments, **others)
        taps = tuple("stem" if tap == "layer1" else tap for tap in network.taps)
        found = right(network._replace(taps=taps), renamed(weights, "layer1", "stem"), *arguments, **others)
        return found._replace(gradients=renamed(found.gradients, "stem", "layer1"))

    return network


def _late(a: Arguments) -> Arguments:
    s = a["schedule"]
    total = s.total_steps
    return {"schedule": Evolutionary(initial=s.initial * (total + 1) / total, total_steps=total + 1)}


def _untrained(chosen: Callable[[str], bool]) -> Any:
    def alter(r: TrainingResult, a: Arguments) -> Any:
        return r._replace(
            weights=_each(r.weights, chosen, lambda name, w: np.asarray(a["weights"][name]).astype(w.dtype))
        )

    return trained(alter)


_IN_A_NETWORK = ("no gradient through time", "reset a step late", "potential rounded to float32", "slope 0.1% off")

MUTANTS: tuple[Mutant, ...] = (
    *(
        dataclasses.replace(mutant, name=f"{mutant.name}, in a network", level="network", cases=_SMALL)
        for mutant in (*step.MUTANTS, *fire.MUTANTS)
        if mutant.name in _IN_A_NETWORK
    ),
    *mutants(
        "network",
        "network",
        {
            "branch taps the block before": _tap_before,
            "coefficient 0.1% off in a network": given(lambda a: {"coefficient": a["coefficient"] * 1.001}),
            "network's composition ignored": given(
                lambda a: {"network": a["network"]._replace(loss=LossSpec(combine="logits"))}
            ),
            "network's labels off by one": given(_labels),
            "images mirrored": given(lambda a: _images(a, lambda x: x[..., ::-1])),
            "height and width swapped": given(lambda a: _images(a, lambda x: np.swapaxes(x, -1, -2))),
            "kernels transposed": given(_kernel_transposed),
            "a time step too many": given(_spec(time_steps=3)),
            "network's neuron with another reset": given(_neuron(reset="hard", reset_value=0.1)),
            "network's neuron detached": given(_neuron(detach_reset=True)),
            "running statistics stuck": result(lambda r, a: _moved(r, a, 0.0, "")),
            "momentum of the statistics the other way round": result(lambda r, a: _moved(r, a, 9.0, "")),
            "running variance biased": result(lambda r, a: _moved(r, a, 0.99, ".running_var")),
            "evaluation with the batch's statistics": result(lambda r, a: r._replace(evaluated=r.logits[0])),
            "stem outside the gradient": _gradients(lambda name: name.startswith("main.stem"), 0.0),
            "branches of a network not trained": _gradients(_branch, 0.0),
            "gradients of a network scaled by T": _gradients(lambda name: True, 2.0),
            "gradients of a network a millionth off": _gradients(lambda name: True, 1.000001),
            "a gradient without a name": result(
                lambda r, a: r._replace(gradients=dict(list(r.gradients.items())[:-1]))
            ),
        },
        cases=_SMALL,
    ),
    *mutants(
        "network",
        "network",
        {
            "a start that follows stays": _start_moved(0.0),
            "a start that follows moves nine times as far": result(
                lambda r, a: _moved(r, a, 9.0, ".running_potential")
            ),
            "a start that follows moves in evaluation too": result(
                lambda r, a: _moved(r, a, 1.9, ".running_potential")
            ),
            "a start that follows not used in evaluation": result(_started_at_rest),
        },
        cases=("network-coefficient-0",),
    ),
    *mutants(
        "network",
        "ends",
        {
            "a start that follows silent neurons too": _every_neuron,
            "a start that follows by the number of spikes": _each_spike,
        },
        cases=("network-coefficient-0",),
    ),
    *mutants(
        "training",
        "training",
        {
            "a start that follows left behind in training": _untrained(_follows),
            "a start that follows trained": trained(
                lambda r, a: r._replace(weights=_each(r.weights, _follows, lambda _, w: (w - 1e-4).astype(w.dtype)))
            ),
        },
        dtypes=("float32",),
        cases=("training-logits",),
    ),
    *mutants(
        "training",
        "training",
        {
            "coefficient an iteration late in training": training(_late),
            "coefficient stuck in training": training(
                lambda a: {"schedule": Constant(value=float(a["schedule"](1)), total_steps=8)}
            ),
            "momentum ignored": training(lambda a: {"optimizer": a["optimizer"]._replace(momentum=0.0)}),
            "learning rate 0.0001% off": training(
                lambda a: {"optimizer": a["optimizer"]._replace(learning_rate=a["optimizer"].learning_rate * 1.000001)}
            ),
            "batches out of order": training(lambda a: {"batches": a["batches"][::-1]}),
            "last batch seen twice": training(lambda a: {"batches": [*a["batches"][1:], a["batches"][-1]]}),
            "branches never trained": _untrained(_branch),
            "statistics left behind in training": _untrained(lambda name: ".running_" in name),
            "first convolution frozen": _untrained(lambda name: name.startswith("main.stem")),
            "a step's loss is the next one's": trained(lambda r, a: r._replace(losses=(*r.losses[1:], r.losses[-1]))),
        },
        cases=("training-losses",),
    ),
)
