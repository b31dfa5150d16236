"""The pytest plugin: ``pytest --pyargs sbp_conformance --sbp-backend torch``, a test for each check.

It is loaded in every pytest run of an environment that has sbp, so it imports nothing but pytest: the suite itself is
imported where a backend is named (:mod:`sbp_conformance.items`). The tests are collected by a hook and not by
their names: a project's own ``python_files`` and the like do not touch them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sbp_conformance.items import SuiteFile

_PACKAGE = Path(__file__).parent
_FILE = _PACKAGE / "checks.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; all of them start with ``--sbp``."""
    group = parser.getgroup("sbp", "conformance of sbp's backends: pytest --pyargs sbp_conformance --sbp-backend NAME")
    for option, metavar, told in (
        ("backend", "NAME", "a registered backend, or package.module:factory"),
        ("level", "NAME", "a level; default: all"),
        ("case", "NAME", "a case, or a pattern of cases; default: all"),
        ("mode", "NAME", "a mode; default: all that the backend has"),
        ("dtype", "NAME", "a dtype; default: all that the backend has"),
    ):
        group.addoption(
            f"--sbp-{option}",
            action="append",
            metavar=metavar,
            default=None,
            help=f"{told}; may be repeated",
        )
    group.addoption(
        "--sbp-expected-failures",
        metavar="FILE",
        default=None,
        help="TOML of checks that are to fail, with reasons; each is a strict xfail",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse wrong options before anything is collected."""
    if config.getoption("sbp_backend") is not None:
        from sbp_conformance.items import Options

        Options.of(config)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep pytest's own collection out of the suite's modules, however a project names its test files."""
    if config.getoption("sbp_backend") is None or _PACKAGE not in collection_path.parents:
        return None
    return collection_path != _FILE


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SuiteFile | None:
    """Collect the suite where pytest comes to its file."""
    if file_path != _FILE or parent.config.getoption("sbp_backend") is None:
        return None
    from sbp_conformance.items import SuiteFile

    return SuiteFile.from_parent(parent, path=file_path)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say what is missing where the suite is asked for without a backend."""
    config = session.config
    asked = any(argument.partition("::")[0] == "sbp_conformance" for argument in config.invocation_params.args)
    if asked and not session.items and config.getoption("sbp_backend") is None:
        raise pytest.UsageError("sbp_conformance: name a backend: --sbp-backend torch, or package.module:factory")
