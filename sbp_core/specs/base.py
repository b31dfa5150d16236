"""What every spec shares: frozen, validated, and a JSON round trip that loses nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

_KINDS: dict[str, type[Spec]] = {}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A frozen description. Its classes are keyword-only dataclasses of plain values, tuples and other specs.

    A class is abstract, ``class Family(Spec, abstract=True)``, or final: then it has a ``kind`` of its own, the name
    that it has in JSON, in saved models and wherever a name is taken, and cannot be derived from. A class of a user's
    own is as good as those here as soon as it is defined.

    Raises:
        TypeError: at definition: a class without a ``kind``, with another class's, derived from a final one, or
            without a method that its family asks for; at construction: an abstract class, or fields that no dataclass
            made.

    Example:
        >>> class Mine(Spec):
        ...     pass
        Traceback (most recent call last):
        ...
        TypeError: class Mine needs a kind of its own, a name that no other has, as in: kind: ClassVar[str] = "mine"
    """

    kind: ClassVar[str]
    _abstract: ClassVar[bool] = True

    def __init_subclass__(cls, *, abstract: bool = False, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        final = next((base for base in cls.__mro__[1:] if issubclass(base, Spec) and not base._abstract), None)
        # a decorator that makes a class anew, with slots say, defines the same one again
        if final is not None:
            family = next(base for base in final.__mro__[1:] if not base.__name__.startswith("_"))
            raise TypeError(
                f"class {cls.__name__} cannot derive from {final.__name__}: it would be computed, compiled and saved "
                f"as a {final.__name__}. Derive from {family.__name__} with a kind of its own, or pass other "
                f"fields to {final.__name__}"
            )
        cls._abstract = abstract
        if abstract:
            if "kind" in cls.__dict__:
                raise TypeError(f"class {cls.__name__} is abstract and has no instances, so it must have no kind")
            return
        kind = cls.__dict__.get("kind")
        if not isinstance(kind, str) or not kind:
            raise TypeError(
                f"class {cls.__name__} needs a kind of its own, a name that no other has, as in: "
                f'kind: ClassVar[str] = "{cls.__name__.lower()}"'
            )
        lacking = sorted(name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False))
        if lacking:
            raise TypeError(f"class {cls.__name__} must define {', '.join(lacking)}")
        other = _KINDS.get(kind)
        # a notebook's cell that is run again, or a module that is reloaded, defines its class anew
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"class {cls.__name__} must have a kind of its own, and {kind!r} is that of "
                f"{other.__module__}.{other.__qualname__}"
            )
        _KINDS[kind] = cls

    def __new__(cls, *arguments: Any, **fields: Any) -> Self:
        """Make an instance of a final class."""
        if cls._abstract:
            known = ", ".join(map(repr, cls.families()))
            raise TypeError(
                f"{cls.__name__} is abstract: take one of its kinds, {known}, or derive a class of your own"
            )
        made = cls.__dict__.get("__dataclass_fields__", ())
        lost = [name for name, hint in inspect.get_annotations(cls).items() if _lost(name, hint, made)]
        if lost:
            raise TypeError(
                f"class {cls.__name__} must be decorated with @dataclass(frozen=True, kw_only=True), so that "
                f"{lost[0]!r} is a field"
            )
        return super().__new__(cls)

    @classmethod
    def families(cls) -> dict[str, type[Self]]:
        """Return the final classes of this family by kind, those of users among them."""
        return {kind: found for kind, found in _KINDS.items() if issubclass(found, cls)}

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
        kind = given.pop("kind", None if cls._abstract else cls.kind)
        families = cls.families()
        if kind not in families:
            raise ValueError(
                f"kind must be one of {', '.join(map(repr, sorted(families)))}; got {kind!r} (a class of your own must "
                "be defined before its specs are read)"
            )
        found = families[kind]
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


def _lost(name: str, hint: Any, made: Container[str]) -> bool:
    return name not in made and "ClassVar" not in str(hint)


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
