"""From figures to sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sbp_core.signal.diagnosis import Diagnosis, NeuronFigures

#: What is said where nothing is wrong.
HEALTHY = (
    "Nothing is wrong that these figures could show: layers fire, near inputs stay near, and the gradients of "
    "different batches agree."
)
#: The same where gradients say nothing yet.
HEALTHY_SO_FAR = "Nothing is wrong that these figures could show so far: layers fire, and near inputs stay near."
#: Spikes per neuron and step below which a layer is as good as silent, and above which it is as good as always on.
QUIET, LOUD = 0.005, 0.9
#: Share of potentials inside the surrogate's support below which hardly any gradient passes.
NARROW = 0.02
#: Below this, near inputs are no nearer than different ones.
STRANGERS = 0.1
#: Steps of training before which gradients are noise in networks that learn too, so that noise says nothing.
EARLY = 60
#: Ratio of the gradients at the two ends beyond which their size is worth a word.
FAR = 1e3


def findings(found: Diagnosis) -> tuple[str, ...]:
    """Return what the figures say, the worst first; noise that is no fault yet at the end."""
    noise, rest = _noise(found), [*_parting(found.neurons), *_closed(found.neurons), *_size(found)]
    if found.after is None or found.after >= EARLY:
        return (*_silent(found.neurons), *noise, *rest) or (HEALTHY,)
    said = [*_silent(found.neurons), *rest]
    if not noise:
        return tuple(said) or (HEALTHY,)
    when = f"after {found.after} steps of training" if found.after else "at the start"
    yet = f"{noise[0]} But {when} this says nothing yet: it is so in networks that learn too; look again after {EARLY}."
    return (*(said or [HEALTHY_SO_FAR]), yet)


def _silent(neurons: Sequence[NeuronFigures]) -> list[str]:
    every = [neuron.path for neuron in neurons]
    quiet = [neuron.path for neuron in neurons if _over_time(neuron.rate) < QUIET]
    loud = [neuron.path for neuron in neurons if _over_time(neuron.rate) > LOUD]
    said = []
    if quiet:
        said.append(f"{where(quiet, every)} hardly anything fires: what lies behind gets no input.")
    if loud:
        said.append(f"{where(loud, every)} nearly every neuron fires at every step: that tells nothing apart.")
    return said


def _noise(found: Diagnosis) -> list[str]:
    noisy = [weight.path for weight in found.weights if weight.is_noise]
    if not noisy:
        return []
    place = where(noisy, [weight.path for weight in found.weights])
    return [f"{place} the gradients of two batches have nothing in common: what reaches these weights is noise."]


def _parting(neurons: Sequence[NeuronFigures]) -> list[str]:
    before = None
    for neuron in neurons:
        if neuron.kept < STRANGERS:
            behind = f"behind {before.path}" if before is not None else "at the very first layer"
            return [
                f"Near inputs part {behind}: at {neuron.path} a sample and its noisy copy are hardly more alike than "
                f"two samples (of their nearness {100 * max(neuron.kept, 0.0):.0f} % are left)."
            ]
        before = neuron
    return []


def _closed(neurons: Sequence[NeuronFigures]) -> list[str]:
    closed = [neuron.path for neuron in neurons if _over_time(neuron.inside) < NARROW]
    if not closed:
        return []
    place = where(closed, [neuron.path for neuron in neurons])
    return [f"{place} hardly any potential lies where the surrogate has a slope: no gradient passes."]


def _size(found: Diagnosis) -> list[str]:
    if len(found.weights) < 2:
        return []
    first, last = found.weights[0], found.weights[-1]
    if last.gradient == 0.0:
        return [f"No gradient reaches {last.path}, the layer at the output."]
    if first.gradient == 0.0:
        return [f"No gradient at all reaches {first.path}, the first layer."]
    ratio = first.gradient / last.gradient
    if 1.0 / FAR <= ratio <= FAR:
        return []
    word = "vanishes" if ratio < 1.0 else "explodes"
    return [f"The gradient {word}: at {first.path} it has {ratio:.1g} times the norm that it has at {last.path}."]


def where(some: Sequence[str], every: Sequence[str]) -> str:
    """Return where these are, as a sentence begins: everywhere, from one on, up to one, or by name."""
    count = len(some)
    if count == len(every) > 1:
        return "In every layer"
    if count > 1 and list(some) == list(every[-count:]):
        return f"From {some[0]} on"
    if count > 1 and list(some) == list(every[:count]):
        return f"Up to {some[-1]}"
    if count <= _MOST_NAMED:
        return f"In {' and '.join(some)}"
    return f"In {count} of {len(every)} layers, {some[0]} to {some[-1]},"


_MOST_NAMED = 3


def _over_time(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
