"""The conformance suite: holds any backend to the reference, level by level.

A level is a list of cases; a case is data (inputs by seed, tolerances, dtypes) that knows how to run itself on a
backend. Running gives results, which are data too; the table is printed from them. On the command line:
``python -m sbp_conformance --backend torch``, or ``--backend package.module:factory`` for a backend of your own.
"""

from sbp_conformance.levels import LEVELS, Case, cases_of
from sbp_conformance.results import BackendRun, Finding, Outcome
from sbp_conformance.run import Selection, run_backend

__all__ = ["LEVELS", "BackendRun", "Case", "Finding", "Outcome", "Selection", "cases_of", "run_backend"]
