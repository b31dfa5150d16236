"""What every spec shares: frozen, validated, and a JSON round trip that loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

_KINDS: dict[str, type[Spec]] = {}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A frozen description. Subclasses are keyword-only dataclasses of plain values, tuples and other specs.

    ``kind`` names the class in JSON, so that ``from_json`` of a base class returns the right family.
    """

    kind: ClassVar[str] = "spec"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values; ``kind`` says which spec it is."""
        return {"kind": self.kind} | {field.name: _encode(getattr(self, field.name)) for field in fields(self)}

    def to_json(self) -> str:
        """Return the spec as JSON text.

        Example:
            >>> from sbp_core import Rectangle
            >>> Rectangle.from_json(Rectangle(width=2.0).to_json()) == Rectangle(width=2.0)
            True
        """
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the spec that ``values`` describes.

        Raises:
            ValueError: the kind is unknown, is not a ``cls``, or a field is unknown or out of range.
            TypeError: a field has the wrong type.
        """
        given = dict(values)
        kind = given.pop("kind", cls.kind)
        found = _KINDS.get(kind)
        if found is None or not issubclass(found, cls):
            known = sorted(name for name, spec in _KINDS.items() if issubclass(spec, cls))
            raise ValueError(f"kind must be one of {', '.join(map(repr, known))}; got {kind!r}")
        allowed = [field.name for field in fields(found)]
        unknown = sorted(set(given) - set(allowed))
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r} for {kind!r}; it has {', '.join(allowed)}")
        return found(**{name: _decode(value) for name, value in given.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the spec that :meth:`to_json` wrote.

        Raises:
            ValueError: not JSON, or not such a spec.
            TypeError: a field has the wrong type.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"text must hold a JSON object, got {text!r}")
        return cls.from_dict(values)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with ``changes`` made, validated again."""
        return replace(self, **changes)

    def _set(self, name: str, value: object) -> None:
        # the one way to normalise a field of a frozen dataclass in __post_init__
        object.__setattr__(self, name, value)


def _encode(value: object) -> object:
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(value: object) -> object:
    if isinstance(value, Mapping):
        return Spec.from_dict(value)
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return value
