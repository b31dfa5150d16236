"""The command line: ``python -m sbp_conformance``. It needs the core and the frameworks under test, nothing else."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import sbp_core
from sbp_conformance import table
from sbp_conformance.backends import default_names
from sbp_conformance.isolation import run_isolated
from sbp_conformance.levels import LEVELS
from sbp_conformance.precision import DTYPES
from sbp_conformance.results import BackendRun
from sbp_conformance.run import MODES, Selection, matching


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m sbp_conformance",
        description="Hold backends to the reference: spikes equal bit for bit, gradients within 1e-12 (float64) and "
        "1e-5 (float32) of the largest. The exit status is 1 if anything failed or nothing ran.",
    )
    found.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help=f"{', '.join(default_names())}, or package.module:factory; may be repeated; default: all installed",
    )
    found.add_argument("--level", action="append", choices=list(LEVELS), help="may be repeated; default: all")
    found.add_argument("--case", action="append", metavar="NAME", help="a case or a pattern such as 'neuron-tie-*'")
    found.add_argument("--mode", action="append", choices=MODES, help="may be repeated; default: all")
    found.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated; default: all")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    found.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, help="backends at a time; default: cores")
    found.add_argument("--timeout", type=float, default=900.0, help="seconds that a backend may take; default: 900")
    found.add_argument("--list", action="store_true", help="name the cases selected, and run none")
    return found


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    selection = Selection(levels=options.level, cases=options.case, modes=options.mode, dtypes=options.dtype)
    if options.list:
        names = [case.name for case in matching(selection)]
        print("\n".join(names))
        return 0 if names else 1
    runs = run_isolated(
        options.backend or default_names(), selection, jobs=options.jobs, timeout=options.timeout, report=_progress
    )
    if options.json is not None:
        found = {"suite": sbp_core.__version__, "passed": _succeeded(runs, options.backend)}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found | {"runs": [run.to_dict() for run in runs]}, indent=1))
    print(table.render(runs))
    return 0 if _succeeded(runs, options.backend) else 1


def _succeeded(runs: Sequence[BackendRun], asked: Sequence[str] | None) -> bool:
    # a framework that is missing is a failure only where it was asked for
    counted = [run for run in runs if asked or run.status != "not installed"]
    return bool(counted) and all(run.passed for run in counted)


def _progress(run: BackendRun) -> None:
    failed = sum(not outcome.passed for outcome in run.outcomes)
    counts = f"{len(run.outcomes)} checks, {failed} failed" if run.status == "ran" else run.status
    print(f"{run.backend}: {counts}, {run.seconds:.0f} s", file=sys.stderr, flush=True)
