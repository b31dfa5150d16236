"""One backend in a process of its own: ``python -m sbp_conformance.worker`` reads a request, and writes events.

Frameworks fight over threads, memory and devices when they share a process, and one that crashes takes its process with
it. Events go to a file, a JSON object a line, so that what was found before a crash is kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sbp_conformance.backends import registry_name
from sbp_conformance.run import Selection, run_check, select, undeclared
from sbp_core import registry


def serve(request: dict[str, Any], events: Path) -> None:
    """Run what ``request`` selects on the backend it names, and append an event for each thing that happens."""
    with events.open("a", encoding="utf-8", buffering=1) as file:

        def tell(event: str, **values: Any) -> None:
            file.write(json.dumps({"event": event} | values) + "\n")

        try:
            backend = registry.load(registry_name(request["backend"]))
            problem = undeclared(backend)
        except Exception as error:
            tell("unavailable", detail=f"{type(error).__name__}: {error}", missing=_missing_package(error))
            return
        if problem is not None:
            tell("unavailable", detail=problem, missing=None)
            return
        tell("loaded", versions={str(name): str(version) for name, version in backend.versions.items()})
        for check in select(backend, Selection(**request["selection"])):
            tell("start", case=check.case.name, mode=check.mode, dtype=check.dtype)
            tell("outcome", outcome=run_check(backend, check).to_dict())
        tell("end")


def _missing_package(error: BaseException) -> str | None:
    """Return the package that is not installed, if that is what the error says; a module of our own is no package."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    return None if package.startswith("sbp_") else package


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), Path(sys.argv[2]))
