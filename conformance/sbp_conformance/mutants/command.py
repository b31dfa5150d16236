"""``python -m sbp_conformance --mutants``: plants every mutant in every adapter, and tells what caught it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbp_conformance.isolation import child_environment
from sbp_conformance.mutants.hunt import Hunt

#: The adapters that have seams, and the package that each needs.
_NEEDS = {"torch": "torch", "tf": "tensorflow", "jax": "jax"}
_TAIL = 5


@dataclass(frozen=True, kw_only=True)
class Score:
    """What became of the mutants of one backend.

    Attributes:
        backend: as ``--backend`` named it.
        planned: how many mutants fit it.
        hunts: a mutant each.
        problem: what ended its process early; empty if nothing did.
    """

    backend: str
    planned: int
    hunts: tuple[Hunt, ...]
    problem: str = ""

    @property
    def caught(self) -> int:
        """How many were caught."""
        return sum(hunt.caught for hunt in self.hunts)

    @property
    def passed(self) -> bool:
        """Whether there were any, and all were caught."""
        return 0 < self.planned == self.caught and not self.problem

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {
            "backend": self.backend,
            "planned": self.planned,
            "caught": self.caught,
            "passed": self.passed,
            "problem": self.problem,
            "mutants": [dataclasses.asdict(hunt) | {"caught": hunt.caught} for hunt in self.hunts],
        }


def installed() -> list[str]:
    """Return the adapters with seams whose framework is installed."""
    return [name for name, package in _NEEDS.items() if importlib.util.find_spec(package) is not None]


def run(names: Sequence[str], patterns: Sequence[str], *, jobs: int, timeout: float) -> list[Score]:
    """Plant the mutants that ``patterns`` name in each backend, ``jobs`` backends at a time."""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return list(pool.map(lambda name: _one(name, patterns, timeout), names))


def _one(name: str, patterns: Sequence[str], timeout: float) -> Score:
    request, problem = json.dumps({"backend": name, "patterns": list(patterns)}), ""
    with tempfile.TemporaryDirectory(prefix="sbp-mutants-") as folder:
        file, log = Path(folder) / "hunts.jsonl", Path(folder) / "log.txt"
        file.touch()
        command = [sys.executable, "-m", "sbp_conformance.mutants.worker", request, str(file)]
        with log.open("w") as stream:
            try:
                code = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=child_environment(name),
                    timeout=timeout,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code, problem = 0, f"timed out after {timeout:g} s"
        if code:
            lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
            problem = "\n    ".join([f"exit status {code}", *lines])
        told = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    planned = told.pop(0)["planned"] if told else 0
    return Score(backend=name, planned=planned, hunts=tuple(Hunt(**each) for each in told), problem=problem)


def render(scores: Sequence[Score]) -> str:
    """Return a line for each mutant, with the check that caught it in the first backend, then the score."""
    by_name: dict[str, dict[str, Hunt]] = {}
    for score in scores:
        for hunt in score.hunts:
            by_name.setdefault(hunt.mutant, {})[score.backend] = hunt
    names = [score.backend for score in scores]
    lines = [("mutant", "level", "planted in", *names, "caught by")]
    for name, hunts in by_name.items():
        first = next(iter(hunts.values()))
        marks = ["" if each not in hunts else "caught" if hunts[each].caught else "SURVIVED" for each in names]
        told = f"{first.check}: {first.quantity}" if first.caught else ""
        lines.append((name, first.level, first.seam, *marks, told))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    parts = ["\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])]
    parts += [_survivor(hunt) for score in scores for hunt in score.hunts if not hunt.caught]
    parts += [_by_kind(score) for score in scores if any(hunt.kind for hunt in score.hunts)]
    return "\n\n".join([*parts, "\n".join(map(_summary, scores))])


def _by_kind(score: Score) -> str:
    """Return how many mutants of each kind were caught of those that were planted."""
    kinds = dict.fromkeys(hunt.kind or "others" for hunt in score.hunts)
    width = max(map(len, kinds))
    lines = [f"{score.backend}, by kind: caught of planted"]
    for kind in kinds:
        found = [hunt for hunt in score.hunts if (hunt.kind or "others") == kind]
        lines.append(f"    {kind.ljust(width)}  {sum(hunt.caught for hunt in found)} of {len(found)}")
    return "\n".join(lines)


def _survivor(hunt: Hunt) -> str:
    told = f"the check fails on the backend as it is: {hunt.alarm}" if hunt.alarm else hunt.problem
    return f"SURVIVED {hunt.backend} {hunt.mutant} ({hunt.level}, {hunt.checks} checks)\n    {told}"


def _summary(score: Score) -> str:
    alarms = sum(bool(hunt.alarm) for hunt in score.hunts)
    seconds = sum(hunt.seconds for hunt in score.hunts)
    told = (
        f"{score.backend}: {score.caught} of {score.planned} mutants caught, {alarms} false alarms by the checks that "
        f"caught them, {seconds:.0f} s"
    )
    return f"{told}\n    {score.problem}" if score.problem else told
