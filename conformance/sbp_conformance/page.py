"""The results as one HTML page that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files

from sbp_conformance.precision import FULL
from sbp_conformance.results import BackendRun, NotOffered, Outcome, Report
from sbp_conformance.table import Row, command, rows, summary

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="badge {mark}">{verdict}</p>
<h1>Conformance of {backends}</h1>
<p class="summary">{summary}</p>
</header>
<main>
{sections}
</main>
<footer><p>{environment}</p></footer>
</body>
</html>
"""


def render(report: Report) -> str:
    """Return the page."""
    sections = [
        _section("Levels and backends", _matrix(report.runs), _READING),
        _section("What went wrong", _wrong(report)),
        _section("Failed as expected", _expected(report.runs)),
        _section("Not offered", _not_offered(report.runs), "Neither passed nor failed: the backend does not have it."),
    ]
    names = [escape(run.backend) for run in report.runs]
    return _PAGE.format(
        title="Conformance: " + ("passed" if report.passed else "failed"),
        style=(files("sbp_conformance") / "page.css").read_text(encoding="utf-8"),
        mark="good" if report.passed else "bad",
        verdict="passed" if report.passed else "failed",
        backends=", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + (names[-1] if names else "nothing"),
        summary=escape(summary(report)),
        sections="\n".join(section for section in sections if section),
        environment=" &middot; ".join(f"{escape(k)} {escape(v)}" for k, v in report.environment.items()),
    )


_READING = (
    "Each cell holds the cases that did what was expected of all cases that ran; below, the worst difference of a "
    "gradient from the reference, over the largest magnitude expected, and how many spikes differ."
)


def _section(title: str, body: str, note: str = "") -> str:
    if not body:
        return ""
    told = f'<p class="note">{note}</p>\n' if note else ""
    return f"<section>\n<h2>{title}</h2>\n{told}{body}\n</section>"


def _matrix(runs: Iterable[BackendRun]) -> str:
    runs = list(runs)
    found = [{(row.level, row.mode): row for row in rows(run.outcomes)} for run in runs]
    every = dict.fromkeys(key for cells in found for key in cells)
    levels = dict.fromkeys(level for level, _ in every)
    lines = ["".join(['<tr><th scope="col">level</th><th scope="col">mode</th>', *map(_head, runs), "</tr>"])]
    for level in levels:
        modes = [mode for named, mode in every if named == level]
        for index, mode in enumerate(modes):
            cells = "".join(_cell(cells.get((level, mode)), run) for cells, run in zip(found, runs, strict=True))
            first = f'<th scope="rowgroup" rowspan="{len(modes)}">{escape(level)}</th>' if index == 0 else ""
            lines.append(f'<tr{_first(index)}>{first}<th scope="row" class="mode">{escape(mode)}</th>{cells}</tr>')
    return '<div class="wide"><table class="matrix">\n' + "\n".join(lines) + "\n</table></div>"


def _first(index: int) -> str:
    return ' class="first"' if index == 0 else ""


def _head(run: BackendRun) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    told = versions if run.status == "ran" else run.status
    mark = "good" if run.passed else "none" if run.status == "not installed" else "bad"
    return (
        f'<th scope="col"><span class="dot {mark}"></span>{escape(run.backend)}'
        f"<small>{_WORDS[mark]}</small>"
        f"<small>{escape(told)}</small><small>{run.seconds:.0f} s</small></th>"
    )


#: A state in words, for those who do not see its colour.
_WORDS = {"good": "passed", "bad": "failed", "none": "did not run"}


def _cell(row: Row | None, run: BackendRun) -> str:
    if row is None:
        told = "not offered" if run.status == "ran" else run.status
        return f'<td class="none"><small>{escape(told)}</small></td>'
    mark = "bad" if row.good < row.cases else "partly" if row.expected else "good"
    errors = [f"f{dtype[-2:]} {_error(row.gradients[dtype])}" for dtype in FULL if dtype in row.gradients]
    if row.differing is not None:
        errors.append(f"{row.differing} spikes")
    if row.good < row.cases:
        errors.insert(0, f"{row.cases - row.good} failed")
    if row.expected:
        errors.append(f"{row.expected} as expected")
    return f'<td class="{mark}"><b>{row.good}</b>/{row.cases}<small>{" &middot; ".join(errors)}</small></td>'


def _error(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def _wrong(report: Report) -> str:
    parts = []
    for run in report.runs:
        if run.status != "ran":
            open_ = "" if run.status == "not installed" else " class='bad'"
            parts.append(f"<p{open_}><b>{escape(run.backend)}</b> {escape(run.status)}</p>{_block(run.detail)}")
        elif not run.outcomes:
            parts.append(f"<p class='bad'><b>{escape(run.backend)}</b>: no case ran</p>")
        bad = run.of("failed", "passed unexpectedly")
        if bad:
            many = f"{len(bad)} check{'s' if len(bad) > 1 else ''}"
            checks = "\n".join(_failure(run, outcome) for outcome in bad)
            head = f"<summary><b>{escape(run.backend)}</b>: {many}</summary>"
            parts.append(f"<details open>{head}\n{checks}\n</details>")
    if report.stale:
        entries = "".join(f"<li><code>{escape(name)}</code></li>" for name in report.stale)
        parts.append(f"<p class='bad'>Expected failures that match no check:</p><ul>{entries}</ul>")
    return "\n".join(parts)


def _failure(run: BackendRun, outcome: Outcome) -> str:
    problems = "".join(f"<li>{escape(problem)}</li>" for problem in outcome.problems)
    if outcome.verdict == "passed unexpectedly":
        problems = f"<li>passed, and was expected to fail: {escape(outcome.expected or '')}</li>"
    return (
        f'<article><h3>{escape(outcome.case)} <span class="tag">{escape(outcome.mode)}</span> '
        f'<span class="tag">{escape(outcome.dtype)}</span> <span class="tag">seed {outcome.seed}</span></h3>'
        f"<ul>{problems}</ul>{_block(command(run.backend, outcome))}</article>"
    )


def _expected(runs: Iterable[BackendRun]) -> str:
    lines = [
        f"<tr><td>{escape(run.backend)}</td><td><code>{escape(outcome.id)}</code></td>"
        f"<td>{escape(outcome.expected or '')}</td></tr>"
        for run in runs
        for outcome in run.of("failed as expected")
    ]
    return _table(("backend", "check", "reason"), lines)


def _not_offered(runs: Iterable[BackendRun]) -> str:
    return _table(("backend", "what", "checks"), [_lack(run.backend, lack) for run in runs for lack in run.not_offered])


def _lack(backend: str, lack: NotOffered) -> str:
    cases = ", ".join(map(escape, lack.cases))
    return (
        f"<tr><td>{escape(backend)}</td><td>{lack.kind} <b>{escape(lack.name)}</b></td>"
        f"<td><details><summary>{len(lack.checks)}</summary>{cases}</details></td></tr>"
    )


def _table(header: tuple[str, ...], lines: list[str]) -> str:
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    return '<div class="wide"><table class="list">\n' + "\n".join([f"<tr>{head}</tr>", *lines]) + "\n</table></div>"


def _block(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text else ""
