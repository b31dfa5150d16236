"""What the doctor found as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sbp_core.signal import Diagnosis
from sbp_lab.doctor.cure import Tried
from sbp_lab.doctor.pictures import diagnosis_png
from sbp_lab.doctor.remedies import Remedy
from sbp_lab.files import write_bytes
from sbp_lab.recipe import Recipe
from sbp_lab.report import page

_NEURONS = ("rate", "silent", "saturated", "inside", "near", "different", "kept")


def write_page(
    path: Path,
    title: str,
    found: Diagnosis,
    remedies: Sequence[Remedy],
    tried: Sequence[Tried],
    recipe: Recipe,
    ran: Mapping[str, Any],
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the page: the finding, what might help and what it did, heat maps of layer by time, every figure.

    Args:
        path: of the page.
        title: what was measured.
        found: the figures.
        remedies: that they ask for, the most needed first.
        tried: what some steps of training with each did.
        recipe: of the network.
        ran: versions and machine.
        pictures: heading to PNG of what else there is.

    Raises:
        OSError: the folder cannot be written.
    """
    first, *rest = found.findings
    said = f"<p><strong>{escape(first)}</strong></p>" + "".join(f"<p>{escape(each)}</p>" for each in rest)
    shown = {"Layer by time step": diagnosis_png(found)} | dict(pictures or {})
    drawn = "".join(f"<h2>{escape(heading)}</h2>{_image(heading, png)}" for heading, png in shown.items())
    where = ", ".join(f"{name} {value}" for name, value in ran.items())
    body = f"""{said}
{_remedies(remedies, tried)}
{drawn}
<p>Inside: potentials where the surrogate has a slope. Likeness: the cosine of two samples' spikes. Agreement: the
cosine of the gradients of two batches, mean over all pairs; grey is no more than chance.</p>
<h2>Neurons</h2>
{_neurons(found)}
<p>In %, means over the steps, but for the gradient: its norm at the input, and how much larger that of the layer before
is.</p>
<h2>Weights</h2>
{_weights(found)}
<h2>What ran</h2>
<p>{escape(where)}.</p>
<pre>{escape(recipe.to_toml())}</pre>
"""
    return write_bytes(path, page(title, body).encode())


def _image(heading: str, png: bytes) -> str:
    return f'<img alt="{escape(heading)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _remedies(remedies: Sequence[Remedy], tried: Sequence[Tried]) -> str:
    if not remedies:
        return "<h2>Nothing is asked for</h2>"
    results = {each.name: (f"{each.trial.loss:.3f}", f"{100 * each.trial.accuracy:.1f}") for each in tried}
    rows = [(remedy.name, remedy.predicts, *results.get(remedy.name, ())) for remedy in remedies]
    heads = ["remedy", "is predicted to"]
    if tried:
        heads += [f"loss after {tried[0].trial.steps} steps", "test accuracy, %"]
        rows.insert(0, (tried[0].name, "", *results[tried[0].name]))
    return f"<h2>What might help, the most needed first</h2>{_table(heads, rows, names=2)}"


def _neurons(found: Diagnosis) -> str:
    rows = []
    for neuron in found.neurons:
        means = neuron.means()
        shares = [_number(100 * means[name], ".1f") for name in _NEURONS]
        rows.append((neuron.path, str(neuron.size), *shares, f"{neuron.norm:.2g}", _number(neuron.gain, ".2f")))
    return _table(["layer", "neurons", *_NEURONS, "gradient", "gain"], rows)


def _weights(found: Diagnosis) -> str:
    rows = [
        (
            each.path,
            f"{each.gradient:.2g}",
            f"{each.agreement:.3f}",
            "noise" if each.is_noise else "",
            _number(each.descent, ".2f"),
        )
        for each in found.weights
    ]
    return _table(["layer", "gradient", "agreement", "", "descent"], rows)


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    def line(kind: str, cells: Iterable[str]) -> str:
        made = (
            f'<{kind} class="name" style="white-space: normal">' if place < names else f"<{kind}>"
            for place in range(20)
        )
        return "".join(f"{begin}{escape(cell)}</{kind}>" for begin, cell in zip(made, cells, strict=False))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{line("th", heads)}</tr>{body}</table></div>'


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else ""
