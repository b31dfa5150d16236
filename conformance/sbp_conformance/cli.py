"""The command line: ``python -m sbp_conformance``. It needs the core and the frameworks under test, nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sbp_conformance import files, page, table
from sbp_conformance.backends import default_names
from sbp_conformance.environment import environment
from sbp_conformance.expected import ExpectedFailures
from sbp_conformance.isolation import Gathered, Limits, run_isolated
from sbp_conformance.levels import LEVELS
from sbp_conformance.precision import DTYPES
from sbp_conformance.results import SCHEMA, BackendRun, Report
from sbp_conformance.run import MODES, Selection, matching, unmatched


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m sbp_conformance",
        description="Hold backends to the reference: spikes equal bit for bit, gradients within 1e-12 (float64) and "
        "1e-5 (float32) of the largest. The exit status is 1 if anything failed or nothing ran.",
    )
    what = found.add_argument_group("what runs")
    what.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"{', '.join(default_names())}, or package.module:factory; may be repeated; default: all installed",
    )
    what.add_argument("--level", action="append", choices=list(LEVELS), help="may be repeated; default: all")
    what.add_argument("--case", action="append", metavar="NAME", help="a case or a pattern such as 'neuron-tie-*'")
    what.add_argument("--mode", action="append", choices=MODES, help="may be repeated; default: all")
    what.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated; default: all")
    what.add_argument(
        "--examples",
        type=_positive,
        metavar="N",
        help="neurons that the random level makes up, others in every run; default: a few, the same in every run",
    )
    what.add_argument("--every", type=_positive, default=1, metavar="N", help="a sample: one in N cases of each level")
    what.add_argument("--list", action="store_true", help="name the cases selected, and run none")
    what.add_argument(
        "--mutants",
        nargs="?",
        const="*",
        metavar="NAME",
        help="instead of the backends as they are, plant the faults of that name or pattern (default: all) in each, "
        "one at a time, and see that the suite catches it; default backends: torch, tf and jax",
    )
    what.add_argument(
        "--expected-failures",
        type=Path,
        metavar="FILE",
        help='TOML: "case[/mode[/dtype]]" = "reason", patterns allowed, in a table for one backend alone; a check '
        "that passes nevertheless, and an entry that matches none, fail the run",
    )
    told = found.add_argument_group("what is told")
    told.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    told.add_argument("--html", type=Path, metavar="FILE", help="write the results as a page too")
    how = found.add_argument_group("how")
    how.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="backends at a time; default: cores")
    how.add_argument("--timeout", type=float, default=900.0, help="seconds that a backend may take; default: 900")
    how.add_argument("--check-timeout", type=float, default=300.0, help="seconds that a check may take; default: 300")
    return found


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = (given := parser()).parse_args(arguments)
    if options.mutants is not None:
        return _mutants(options)
    selection = Selection(
        levels=options.level,
        cases=options.case,
        modes=options.mode,
        dtypes=options.dtype,
        examples=options.examples,
        every=options.every,
    )
    try:
        names = [case.name for case in matching(selection)]
        for told in unmatched(selection):
            print(told, file=sys.stderr)
    except ModuleNotFoundError as error:
        given.error(str(error))
    if options.list:
        print("\n".join(names))
        return 0 if names else 1
    try:
        expected = ExpectedFailures.read(options.expected_failures) if options.expected_failures else ExpectedFailures()
    except (OSError, ValueError) as error:
        given.error(f"--expected-failures: {error}")
    found = run_isolated(
        options.backend or default_names(),
        selection,
        jobs=options.jobs,
        limits=Limits(backend=options.timeout, check=options.check_timeout),
        report=_progress,
    )
    report = assemble(found, expected, asked=options.backend is not None)
    if options.json is not None:
        files.write(options.json, json.dumps(report.to_dict(), indent=1))
    if options.html is not None:
        files.write(options.html, page.render(report))
    print(table.render(report))
    return 0 if report.passed else 1


def _mutants(options: argparse.Namespace) -> int:
    from sbp_conformance.mutants import command  # here: the parser need not know a hundred faults

    names = options.backend or command.installed()
    scores = command.run(names, [options.mutants], jobs=options.jobs, timeout=options.timeout)
    passed = bool(scores) and all(score.passed for score in scores)
    if options.json is not None:
        told = {"schema": SCHEMA, "passed": passed, "environment": environment()}
        files.write(options.json, json.dumps(told | {"scores": [score.to_dict() for score in scores]}, indent=1))
    print(command.render(scores))
    return 0 if passed else 1


def assemble(found: Sequence[Gathered], expected: ExpectedFailures, *, asked: bool) -> Report:
    """Return the report on what was gathered, held against what was expected to fail.

    Args:
        found: a backend each.
        expected: the caller's expected failures.
        asked: whether the backends were named.
    """
    runs = [
        dataclasses.replace(
            each.run,
            outcomes=tuple(
                dataclasses.replace(outcome, expected=expected.reason(each.run.backend, outcome.id))
                for outcome in each.run.outcomes
            ),
        )
        for each in found
    ]
    stale = expected.stale({each.run.backend: each.offered for each in found if each.offered})
    return Report(runs=tuple(runs), asked=asked, stale=stale, environment=environment())


def _progress(run: BackendRun) -> None:
    failed = sum(not outcome.passed for outcome in run.outcomes)
    counts = f"{len(run.outcomes)} checks, {failed} failed" if run.status == "ran" else run.status
    print(f"{run.backend}: {counts}, {run.seconds:.0f} s", file=sys.stderr, flush=True)
