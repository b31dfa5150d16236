"""Mutants of one backend in a process of its own: a request in; out how many there are, then a line of JSON each."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sbp_conformance.mutants.hunt import chosen, hunt
from sbp_conformance.worker import load


def serve(request: dict[str, Any], file: Path) -> None:
    """Plant what ``request`` names in its backend, and append what became of each."""
    name = request["backend"]
    backend = load(name)
    mutants = chosen(name, backend, request["patterns"])
    with file.open("a", encoding="utf-8", buffering=1) as stream:
        stream.write(json.dumps({"planned": len(mutants)}) + "\n")
        for found in hunt(name, backend, mutants):
            stream.write(json.dumps(dataclasses.asdict(found)) + "\n")


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), Path(sys.argv[2]))
