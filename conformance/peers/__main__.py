"""Print how each peer's neurons and surrogates compare with our presets: ``make peers``.

Needs SpikingJelly 2, snnTorch 1, Norse 1.1 and spyx 1, in an environment of their own (``requirements.txt`` here).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
from pathlib import Path

from comparison import SEED, SHAPE, Row, compare_neuron, compare_surrogate

PEERS = {"spikingjelly": "spikingjelly", "snntorch": "snntorch", "norse": "norse", "spyx": "spyx"}


def table(rows: list[Row], *, neurons: bool) -> str:
    """Return the rows as a Markdown table."""
    head = "| library | " + ("neuron | spikes that differ |" if neurons else "surrogate |")
    lines = [
        head + " worst gradient difference, relative | equal to our preset |",
        "|---|---|---|---|" + "---|" * neurons,
    ]
    for row in rows:
        middle = f" {row.flipped} of {row.spikes} |" if neurons else ""
        verdict = "yes" if row.equal else "no"
        note = f": {row.note}" if row.note else ""
        lines.append(f"| {row.peer} | `{row.name}` |{middle} {row.error:.1e} | {verdict}{note} |")
    return "\n".join(lines)


def main() -> None:
    """Compare every peer that is named and print, or write, the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="one peer; all of them by default")
    parser.add_argument("--out", type=Path, help="also write the tables to this Markdown file")
    arguments = parser.parse_args()
    peers = arguments.peer or list(PEERS)
    modules = [importlib.import_module(f"peer_{peer}") for peer in peers]
    versions = ", ".join(f"{peer} {importlib.metadata.version(PEERS[peer])}" for peer in peers)
    text = "\n\n".join(
        [
            "# The peers' neurons and surrogates against our presets",
            f"Printed by `make peers` with {versions}.\n"
            f"Each neuron runs {SHAPE[0]} steps of {SHAPE[1] * SHAPE[2]} neurons in float64 (seed {SEED},\n"
            "no potential within rounding of the threshold) beside the reference of its preset; gradients are of a\n"
            "random weighting of all spikes. A difference of nan means that theirs is NaN.",
            table([compare_neuron(peer) for module in modules for peer in module.NEURONS], neurons=True),
            table([compare_surrogate(peer) for module in modules for peer in module.SURROGATES], neurons=False),
            "Theirs that have no preset here, and are not compared:\n\n"
            + "\n".join(
                f"- {peer}: {', '.join(f'`{name}`' for name in module.WITHOUT_PRESET) or 'none'}"
                for peer, module in zip(peers, modules, strict=True)
            ),
        ]
    )
    print(text)
    if arguments.out is not None:
        partial = arguments.out.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(arguments.out)


if __name__ == "__main__":
    main()
