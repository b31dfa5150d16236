"""Faults of a network for some fields, images, batches and coefficients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from sbp_conformance.mutants.base import Change, Mutant
from sbp_conformance.mutants.contract import Arguments
from sbp_conformance.mutants.kinds.family import family
from sbp_conformance.mutants.networks import given as of_network
from sbp_conformance.mutants.networks import result as from_network
from sbp_core import ArcTan, LIFSpec


def _networks() -> dict[str, Change]:
    default, plain = LIFSpec(), {"batch_norm_epsilon": 1e-5, "batch_norm_momentum": 0.1}

    def neurons(name: str) -> Change:
        def alter(a: Arguments) -> Arguments:
            spec = a["network"].spec
            other = spec.neuron.replace(**{name: ArcTan() if name == "surrogate" else getattr(default, name)})
            return {"network": a["network"]._replace(spec=spec.replace(neuron=other))}

        return of_network(alter)

    def norm(name: str, value: float) -> Change:
        return of_network(lambda a: {"network": a["network"]._replace(spec=a["network"].spec.replace(**{name: value}))})

    def gradients(condition: Callable[[Arguments], bool], chosen: Callable[[str], bool]) -> Change:
        def alter(r: Any, a: Arguments) -> Any:
            wrong = {name: g * 0.99 if chosen(name) else g for name, g in r.gradients.items()}
            return r._replace(gradients=wrong) if condition(a) else r

        return from_network(alter)

    def teacher(a: Arguments) -> Arguments:
        return {"network": a["network"]._replace(loss=a["network"].loss.replace(detach_teacher=True))}

    # ties are the neuron level's; the decay and the start may be learnt, and widths are the neuron's
    left_out = ("learn_decay", "learn_initial", "initial_follows", "width_follows", "output", "decay", "inclusive")
    names = [field.name for field in dataclasses.fields(LIFSpec) if field.name not in left_out]
    return {
        **{f"{name} of a network ignored": neurons(name) for name in names},
        **{f"{name} ignored": norm(name, value) for name, value in plain.items()},
        "images that are not square": gradients(
            lambda a: a["batch"].images.shape[2] != a["batch"].images.shape[3], lambda name: "conv" in name
        ),
        "images of odd size": gradients(
            lambda a: bool(a["batch"].images.shape[2] % 2), lambda name: "downsample" in name
        ),
        "learnt start": gradients(lambda a: True, lambda name: name.endswith(".initial_potential")),
        "third block of a stage": gradients(lambda a: True, lambda name: name.startswith("main.layer1.2.")),
        "third stage": gradients(lambda a: True, lambda name: name.startswith("main.layer3.")),
        "branches at coefficient 0": from_network(
            lambda r, a: (
                r._replace(gradients={n: g for n, g in r.gradients.items() if "branches." not in n})
                if a["coefficient"] == 0.0
                else r
            )
        ),
        "coefficient of a network within 0 and 1": of_network(
            lambda a: {"coefficient": min(max(a["coefficient"], 0.0), 1.0)}
        ),
        "coefficient of a network at most 1": of_network(lambda a: {"coefficient": min(a["coefficient"], 1.0)}),
        "attached teacher of a network": of_network(teacher),
        "label smoothing of a network": of_network(
            lambda a: {"network": a["network"]._replace(loss=a["network"].loss.replace(label_smoothing=0.0))}
        ),
        "batch of one": gradients(lambda a: len(a["batch"].images) == 1, lambda name: True),
    }


MUTANTS: tuple[Mutant, ...] = (
    *family(
        "networks",
        "network",
        "network",
        _networks(),
        cases=("network-full-neuron", "network-l*", "network-c*", "network-o*"),
    ),
)
