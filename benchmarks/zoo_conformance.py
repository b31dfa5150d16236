"""The zoo's narrow networks in every adapter, held to the reference by the suite; prints a table of docs/zoo.md.

A network that differs from another by its sizes alone is held where the other is: its row names it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from sbp_core import network_spec
from sbp_core.specs.networks import ZOO

BACKENDS = ("torch", "jax", "keras-tensorflow", "keras-jax", "keras-torch")


def conform():
    """Return the outcomes of the suite's network level, eager and in float64, by backend and case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.json")
        asked = [word for backend in BACKENDS for word in ("--backend", backend)]
        command = [
            sys.executable,
            "-m",
            "sbp_conformance",
            *asked,
            "--level",
            "network",
            "--mode",
            "eager",
            "--timeout",
            "3600",
        ]
        # a failure is a cell of the table
        subprocess.run([*command, "--dtype", "float64", "--json", path], stdout=sys.stderr, check=False)
        runs = json.loads(path.read_text())["runs"]
    return {run["backend"]: {outcome["case"]: outcome for outcome in run["outcomes"]} for run in runs}


def cell(outcome):
    """Return whether the spikes are the same, and the worst gradient's error over its largest magnitude."""
    if outcome is None:
        return "not run"
    if outcome["verdict"] != "passed":
        return f"**{outcome['verdict']}**"
    spikes, gradient = (
        max(finding["error"] for finding in outcome["findings"] if finding["kind"] == kind)
        for kind in ("spikes", "gradient")
    )
    # parts that end in a sum of potentials give no spikes
    return f"{'equal' if spikes == 0 else f'{spikes:.0e}'}, {gradient:.0e}"


def held_as(name, cases):
    """Return whose case holds a network: its own, or that of one of its kind."""
    if f"network-{name}" in cases:
        return name
    kind = network_spec(name).kind
    return next(other for other in ZOO if f"network-{other}" in cases and network_spec(other).kind == kind)


if __name__ == "__main__":
    found = conform()
    cases = next(iter(found.values()))
    print(f"| network | {' | '.join(BACKENDS)} |")
    print("|---" * (1 + len(BACKENDS)) + "|")
    for name in ZOO:
        other = held_as(name, cases)
        if other == name:
            cells = [cell(found[backend].get(f"network-{name}")) for backend in BACKENDS]
        else:
            cells = [f"as `{other}`"] * len(BACKENDS)
        print(f"| `{name}` | {' | '.join(cells)} |")
