"""The conformance suite: holds any backend to the reference, level by level.

A level is a list of cases; a case is data (inputs by seed, tolerances, dtypes) that knows how to run itself on a
backend. Running gives results, which are data too; the table and the page are made from them. On the command line:
``python -m sbp_conformance --backend torch``, or ``--backend package.module:factory`` for a backend of your own; in
pytest: ``pytest --pyargs sbp_conformance --sbp-backend torch``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbp_conformance.levels import LEVELS, Case, cases_of
    from sbp_conformance.results import BackendRun, Finding, Outcome, Report
    from sbp_conformance.run import Selection, run_backend

__all__ = ["LEVELS", "BackendRun", "Case", "Finding", "Outcome", "Report", "Selection", "cases_of", "run_backend"]

# found when first asked for: the pytest plugin loads this package in every pytest run, and must not load NumPy
_HOMES = {
    "levels": ("LEVELS", "Case", "cases_of"),
    "results": ("BackendRun", "Finding", "Outcome", "Report"),
    "run": ("Selection", "run_backend"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
