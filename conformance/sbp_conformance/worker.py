"""One backend in a process of its own: ``python -m sbp_conformance.worker`` reads a request, and writes events.

Frameworks fight over threads, memory and devices when they share a process, and one that crashes takes its process with
it. Events go to a file, a JSON object a line, so that what was found before a crash is kept.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sbp_conformance.backends import registry_name
from sbp_conformance.harness import as_backend
from sbp_conformance.run import Selection, outcome_of, plan, run_check, undeclared
from sbp_core import registry
from sbp_core.backend import Backend


def serve(request: dict[str, Any], events: Path) -> None:
    """Run what ``request`` selects on the backend it names, and append an event for each thing that happens."""
    with events.open("a", encoding="utf-8", buffering=1) as file:

        def tell(event: str, **values: Any) -> None:
            file.write(json.dumps({"event": event} | values) + "\n")

        try:
            backend = load(request["backend"])
        except (Exception, SystemExit) as error:
            tell("unavailable", detail=f"{type(error).__name__}: {error}", missing=_missing_package(error))
            return
        selected = plan(backend, Selection(**request["selection"]))
        tell(
            "loaded",
            versions={str(name): str(version) for name, version in backend.versions.items()},
            not_offered=[dataclasses.asdict(lack) for lack in selected.not_offered],
            offered=[check.id for check in plan(backend, Selection()).checks],
        )
        done = set(request["done"])
        for check in selected.checks:
            if check.id in done:
                continue
            # what a crash or a hang would leave, short of how it ended
            tell("start", outcome=outcome_of(check, (), seconds=0.0).to_dict())
            tell("outcome", outcome=run_check(backend, check).to_dict())
        tell("end")


def load(name: str) -> Backend:
    """Return the backend called ``name``, or that of the engine called so, once what it declares is sound.

    Raises:
        ModuleNotFoundError: its framework is not installed.
        TypeError: it declares nothing, or not what the contract says, or offers nothing.
        ValueError: there is no such backend.
    """
    backend = as_backend(registry.load(registry_name(name)))
    if (problem := undeclared(backend)) is not None:
        raise TypeError(problem)
    return backend


def _missing_package(error: BaseException) -> str | None:
    """Return the package that is not installed, if that is what the error says; a module of our own is no package."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    return None if package.startswith("sbp_") else package


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), Path(sys.argv[2]))
