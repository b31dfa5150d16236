"""A comparison as one HTML file that needs nothing else: no network, no other file, light and dark."""

from __future__ import annotations

from html import escape
from pathlib import Path

from sbp_lab.files import write_bytes
from sbp_lab.plots import comparison_svg
from sbp_lab.results import Comparison
from sbp_lab.tables import headings, labels, rows, title

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #222; --soft: #666; --line: #ddd;
  --vanilla: #4d4d4d; --shortcut: #b87700; --evolutionary: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #e6e6e6; --soft: #a0a0a0; --line: #3a3d42;
  --vanilla: #b8b8b8; --shortcut: #f0b030; --evolutionary: #58b4ec; } }
body { background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 68rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } p, caption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
td { vertical-align: top; } th { vertical-align: bottom; font-weight: 600; }
td, th { white-space: pre; } .name { text-align: left; }
svg { width: 100%; min-width: 42rem; height: auto; color: var(--ink); }
svg text { fill: currentColor; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .8rem; font-size: .85rem; }
"""


def html(comparison: Comparison) -> str:
    """Return the report."""
    plan, missing = comparison.plan, len(comparison.plan.cells()) - len(comparison.runs)
    state = f"<p>{missing} of {len(plan.cells())} runs are missing.</p>" if missing else ""
    pictures = "".join(
        f'<h2>{escape(f"{net} on {data}")}</h2><div class="wide">{comparison_svg(comparison, (data, net))}</div>'
        for data, net in plan.groups()
        if any(cell[:2] == (data, net) for cell in comparison.runs)
    )
    machine = ", ".join(f"{name} {value}" for name, value in comparison.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in comparison.versions.items())
    return page(
        title(comparison),
        f"""{state}
<div class="wide">{_summary(comparison)}</div>
<p>Accuracy is the main output's alone on the test samples, after the last epoch: mean and standard deviation over the
seeds. The difference to {escape(plan.baseline)} is paired, seed by seed, with the interval of Student's t (95 %): where
it holds 0, these runs do not tell the two apart. The best epoch is chosen on the test samples, so it flatters every
method.</p>
{pictures}
<h2>Every run</h2>
<div class="wide">{_runs(comparison)}</div>
<h2>What ran</h2>
<p>{escape(comparison.created)}; {comparison.jobs} at a time; {escape(machine)}.<br>{escape(versions)}.</p>
<p>The recipe that all runs share; its data, net, method and seed are replaced by each run's.</p>
<pre>{escape(plan.recipe.to_toml())}</pre>
""",
    )


def page(heading: str, body: str) -> str:
    """Return a whole page with a heading and HTML."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(heading)}</h1>
{body}</body></html>
"""


def write_report(comparison: Comparison, path: Path) -> Path:
    """Write the report, whole or not at all, and return its path.

    Raises:
        OSError: the folder cannot be written.
    """
    return write_bytes(path, html(comparison).encode())


def _summary(comparison: Comparison) -> str:
    names = labels(comparison)
    head = "".join(f'<th class="name">{escape(name)}</th>' for name in names)
    head += "".join(f"<th>{escape(heading)}</th>" for heading in headings(comparison))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="name">{escape(name)}</td>' for name in told)
        + "".join(f"<td>{escape(figure)}</td>" for figure in figures)
        + "</tr>"
        for told, _, figures in rows(comparison)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _runs(comparison: Comparison) -> str:
    names = ("data", "net", "method", "seed", "last epoch, %", "best epoch, %", "of epoch", "ms per step", "seconds")
    head = "".join(f"<th{_class(place)}>{escape(name)}</th>" for place, name in enumerate(names))
    body = ""
    for cell, run in comparison.runs.items():
        figures = (
            *map(str, cell),
            f"{run.accuracy * 100:.2f}",
            f"{run.best.accuracy * 100:.2f}",
            str(run.best.number),
            f"{run.step_ms:.1f}",
            f"{run.seconds:.0f}",
        )
        row = "".join(f"<td{_class(place)}>{escape(figure)}</td>" for place, figure in enumerate(figures))
        body += f"<tr>{row}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _class(place: int) -> str:
    return ' class="name"' if place < 3 else ""
