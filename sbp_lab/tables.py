"""The figures of a comparison as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.table import Table

from sbp_lab.results import Comparison, Interval, Summary, describe

CAPTION = (
    "Accuracy: of the main output alone, on the test samples, after the last epoch; its standard deviation over the "
    "seeds. Difference: paired, with its 95 % interval. Gradient: norms in epoch 1, and their range."
)


def table(comparison: Comparison) -> Table:
    """Return mean, spread and paired difference of every method."""
    seeds = len(comparison.plan.seeds)
    # narrow enough for a terminal of 80 columns
    drawn = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        caption=CAPTION,
        title=f"{title(comparison)}; mean over {seeds} seed{'s' if seeds > 1 else ''}",
    )
    for heading in labels(comparison):
        drawn.add_column(heading, no_wrap=True)
    for heading in headings(comparison):
        drawn.add_column(heading, justify="right", no_wrap=True)
    group = None
    for names, summary, cells in rows(comparison):
        if group not in (None, (summary.data, summary.net)):
            drawn.add_section()
        group = (summary.data, summary.net)
        drawn.add_row(*names, *cells)
    return drawn


def title(comparison: Comparison) -> str:
    """Return a line that says what all runs share."""
    plan = comparison.plan
    shared = plan.recipe.replace(data=plan.data[0], net=plan.nets[0])
    line = describe(shared)
    for several, name in ((plan.data, f"on {plan.data[0]}"), (plan.nets, plan.nets[0])):
        if len(several) > 1:
            line = line.replace(name, name.replace(several[0], ", ".join(several)), 1)
    return line


def labels(comparison: Comparison) -> list[str]:
    """Return the headings of what a row is of: what there is but one of has no column."""
    plan = comparison.plan
    return [*(["data"] if len(plan.data) > 1 else []), *(["net"] if len(plan.nets) > 1 else []), "method"]


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Return the headings of the figures."""
    less = f"less {comparison.plan.baseline}'s"
    return ("accuracy, %", less, "best\nepoch", "first / last\ngradient", "ms per\nstep")


def rows(comparison: Comparison) -> Iterator[tuple[list[str], Summary, list[str]]]:
    """Yield of every method what it is, its summary, and its figures as text."""
    names = labels(comparison)
    seeds = len(comparison.plan.seeds)
    for row in comparison.summaries():
        spread = "" if row.accuracy_deviation is None else f" ± {row.accuracy_deviation * 100:.1f}"
        low, high = row.gradient_ratio_range
        reach = "" if row.runs == 1 or math.isnan(low) else f"\n({low:.2g} to {high:.2g})"
        short = "" if row.runs == seeds else f"\n({row.runs} of {seeds})"
        told = {"data": row.data, "net": row.net, "method": row.method + short}
        figures = [
            f"{row.accuracy * 100:.1f}{spread}",
            difference(row.difference),
            f"{row.best * 100:.1f}",
            "" if math.isnan(row.gradient_ratio) else f"{row.gradient_ratio:.2g}{reach}",
            f"{row.step_ms:.1f}",
        ]
        yield [told[name] for name in names], row, figures


def difference(interval: Interval | None) -> str:
    r"""Return a paired difference in percentage points, with its interval.

    Example:
        >>> difference(Interval(0.25, 0.125, 0.375, 3)), difference(Interval(-0.5, None, None, 1))
        ('+25.0\n(+12.5 to +37.5)', '-50.0')
    """
    if interval is None:
        return ""
    mean = f"{interval.mean * 100:+.1f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean}\n({interval.low * 100:+.1f} to {interval.high * 100:+.1f})"
