"""Expected failures. They belong to the caller, in a file of the caller's, and they are strict.

A TOML file; each key is a pattern of ``case``, ``case/mode`` or ``case/mode/dtype``, each value the reason. A table
holds what is expected of one backend alone::

    "neuron-tie-*/eager/float16" = "our float16 accumulates in float32"

    ["my_package.backend:make_backend"]
    "loss-*-far-logits" = "the softmax is not shifted; issue 12"

A check that a pattern names must fail: one that passes, and a pattern that names no check at all, fail the run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class ExpectedFailure:
    """A pattern of checks that are to fail.

    Attributes:
        pattern: as in the file.
        reason: why.
        backend: the only one that it is about; None for all.
    """

    pattern: str
    reason: str
    backend: str | None = None

    @property
    def name(self) -> str:
        """How a report names it."""
        return self.pattern if self.backend is None else f"{self.pattern} (of {self.backend})"

    def concerns(self, backend: str) -> bool:
        """Say whether it is about a backend."""
        return self.backend in (None, backend)

    def matches(self, check: str) -> bool:
        """Say whether it names a check, ``case/mode/dtype``.

        Example:
            >>> ExpectedFailure("neuron-tie-*/eager", "why").matches("neuron-tie-hard/eager/float32")
            True
            >>> ExpectedFailure("*/*/float16", "why").matches("neuron-tie-hard/eager/float32")
            False
        """
        parts, patterns = check.split("/"), self.pattern.split("/")
        return all(fnmatchcase(part, pattern) for part, pattern in zip(parts, patterns, strict=False))


@dataclass(frozen=True)
class ExpectedFailures:
    """All of a file."""

    entries: tuple[ExpectedFailure, ...] = ()

    @classmethod
    def read(cls, file: Path) -> ExpectedFailures:
        """Return what a file says.

        Raises:
            ValueError: it is not TOML, a pattern has too many parts, or an entry has no reason.
            OSError: it cannot be read.
        """
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: not TOML: {error}") from None
        entries = []
        for key, value in values.items():
            if isinstance(value, Mapping):
                entries += [_entry(file, pattern, reason, backend=key) for pattern, reason in value.items()]
            else:
                entries.append(_entry(file, key, value))
        return cls(tuple(entries))

    def reason(self, backend: str, check: str) -> str | None:
        """Return why a check of a backend is to fail, None if it is not."""
        return next((e.reason for e in self.entries if e.concerns(backend) and e.matches(check)), None)

    def stale(self, offered: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
        """Return the entries that match nothing.

        Args:
            offered: backends that ran, and every check that each has, selected or not: an entry is not stale because
                the selection left its check out, or its backend.
        """
        unmatched = []
        for entry in self.entries:
            concerned = [checks for backend, checks in offered.items() if entry.concerns(backend)]
            if concerned and not any(entry.matches(check) for checks in concerned for check in checks):
                unmatched.append(entry.name)
        return tuple(unmatched)


def _entry(file: Path, pattern: str, reason: object, backend: str | None = None) -> ExpectedFailure:
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(
            f"{file}: {pattern!r} needs a reason, a text, got {reason!r}; a pattern stands in quotes, and a table is "
            "named for a backend"
        )
    if not pattern or pattern.count("/") > 2:
        raise ValueError(f"{file}: a pattern is case, case/mode or case/mode/dtype, got {pattern!r}")
    return ExpectedFailure(pattern, reason, backend)
