"""Reads pickled data without running code in it: a pickle is a program, and a stranger's may do anything.

Every instruction that plain data needs is carried out here, on plain values. The few functions that NumPy's and
Python 2's pickles name are recognised by name and never looked up; any other instruction, or name, is refused.
"""

from __future__ import annotations

import math
import pickletools
import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import damaged

_ARRAY, _FROM_BUFFER, _DTYPE, _ENCODE, _BYTES = "array", "from buffer", "dtype", "encode", "bytes"
_KNOWN = {
    "numpy.core.multiarray _reconstruct": _ARRAY,
    "numpy._core.multiarray _reconstruct": _ARRAY,
    "numpy.core.numeric _frombuffer": _FROM_BUFFER,
    "numpy._core.numeric _frombuffer": _FROM_BUFFER,
    "numpy ndarray": "ndarray",
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
    "__builtin__ bytes": _BYTES,
    "builtins bytes": _BYTES,
}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("BINSTRING", "SHORT_BINSTRING", "STRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
_PUSH = frozenset((*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
_CONSTANT: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))


class _Name:
    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


class _Mark:
    pass


class _Dtype:
    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="


class _Array:
    """An array in the making: NumPy's pickles make it empty, and fill it in a later instruction."""

    values: NDArray[Any] | None = None


_Memo: TypeAlias = dict[int, object]


class _Refused(Exception):  # noqa: N818  (never leaves this module)
    def __init__(self, found: str, expected: str = "plain data") -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected


def read_pickle(path: Path, content: bytes) -> dict[str, object]:
    r"""Return the dict that the pickle ``content``, of the file at ``path``, holds: of plain values and NumPy arrays.

    Keys and values that Python 2 pickled as text of bytes are given as ``str``; arrays are read-only.

    Raises:
        ValueError: the pickle is damaged, holds something else, or asks for a function; the message names the file,
            the byte and what was found there. Nothing in it was run.

    Example:
        >>> import pickle
        >>> read_pickle(Path("good"), pickle.dumps({"labels": [1, 2], b"data": np.zeros(3, np.uint8)}))
        {'labels': [1, 2], 'data': array([0, 0, 0], dtype=uint8)}
        >>> read_pickle(Path("bad"), b"cos\nsystem\n(S'rm -rf /'\ntR.")
        Traceback (most recent call last):
        ...
        ValueError: bad, byte 0: expected plain data, found the function os.system: it was not called
    """
    place = 0
    machine = _Machine()
    try:
        for code, argument, position in pickletools.genops(content):
            place = position or 0
            if code.name == "STOP":
                place += 1
                break
            machine.do(code.name, argument)
        else:
            raise _Refused("the end of the file", "more of the pickle")
        if place != len(content):
            raise _Refused(f"{len(content) - place} more bytes", "the end of the file, where the pickle ends")
        return machine.result()
    except _Refused as error:
        raise damaged(path, f"byte {place}", error.found, error.expected) from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise damaged(path, f"at or after byte {place}", f"a broken pickle ({error})", "plain data") from error


class _Machine:
    """The stack and memory that a pickle's instructions work on."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.memo: _Memo = {}

    def do(self, code: str, argument: object) -> None:
        """Carry out one instruction."""
        stack = self.stack
        if code in _PUSH:
            stack.append(argument)
        elif code in _CONSTANT:
            stack.append(_CONSTANT[code])
        elif code in _PUT and isinstance(argument, int):
            self.memo[argument] = self._top()
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif code in _GET and isinstance(argument, int):
            stack.append(self.memo[argument])
        elif code in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[code])))
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            name = argument if code == "GLOBAL" else " ".join(map(_text, self._pop(2)))
            if name not in _KNOWN:
                raise _Refused(f"the function {str(name).replace(' ', '.')}: it was not called")
            stack.append(_Name(_KNOWN[str(name)]))
        elif code in ("PROTO", "FRAME"):
            pass
        else:
            self._build(code)

    def _build(self, code: str) -> None:
        stack = self.stack
        match code:
            case "MARK":
                stack.append(_Mark())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(self._to_mark()))
            case "LIST":
                stack.append(self._to_mark())
            case "DICT":
                stack.append(_pairs(self._to_mark()))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if code == "APPEND" else self._to_mark()
                _of(list, self._top()).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if code == "SETITEM" else self._to_mark()
                _of(dict, self._top()).update(_pairs(items))
            case "REDUCE":
                function, arguments = self._pop(2)
                stack.append(_call(_of(_Name, function).meaning, _of(tuple, arguments)))
            case "BUILD":
                (state,) = self._pop(1)
                _fill(self._top(), _of(tuple, state))
            case _:
                raise _Refused(f"the instruction {code}")

    def result(self) -> dict[str, object]:
        """Return what the pickle made."""
        if len(self.stack) != 1 or not isinstance(self.stack[0], dict):
            kinds = ", ".join(type(value).__name__ for value in self.stack)
            raise _Refused(f"something else ({kinds or 'nothing'})", "a dict")
        return {key: _finished(value) for key, value in self.stack[0].items()}

    def _top(self) -> object:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise _Refused("an instruction without a value to work on")
        return self.stack[-1]

    def _pop(self, count: int) -> list[object]:
        taken = self.stack[-count:]
        if len(taken) < count or any(isinstance(value, _Mark) for value in taken):
            raise _Refused("an instruction without the values it needs")
        del self.stack[-count:]
        return taken

    def _to_mark(self) -> list[object]:
        for place in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[place], _Mark):
                taken = self.stack[place + 1 :]
                del self.stack[place:]
                return taken
        raise _Refused("an instruction without the mark it needs")


def _call(function: str, arguments: tuple[Any, ...]) -> object:
    """Return what one of the known functions gives, worked out here."""
    match function, arguments:
        case ("encode", (str(text), str(encoding))) if encoding.replace("-", "").replace("_", "") == "latin1":
            return text.encode("latin-1")
        case ("bytes", ()):
            return b""
        case ("dtype", (str(code), *_)) if re.fullmatch("b1|[iuf][1248]", code):
            return _Dtype(code)
        case ("array", (_Name(meaning="ndarray"), tuple(), _)):
            return _Array()
        case ("from buffer", (bytes() | bytearray() as data, _Dtype() as dtype, tuple(shape), str(order))):
            array = _Array()
            array.values = _values(data, dtype, shape, fortran=order == "F")
            return array
    raise _Refused(f"{function} of {', '.join(type(argument).__name__ for argument in arguments)}")


def _fill(made: object, state: tuple[Any, ...]) -> None:
    match made, state:
        case (_Dtype(), (int(), "<" | ">" | "|" as order, None, None, None, *_)):
            made.order = order
        case (_Array(values=None), (int(), tuple(shape), _Dtype() as dtype, fortran, data)):
            data = data.encode("latin-1") if isinstance(data, str) else data
            if not isinstance(data, bytes):
                raise _Refused(f"an array of {type(data).__name__}", "an array of bytes")
            made.values = _values(data, dtype, shape, fortran=bool(fortran))
        case _:
            raise _Refused(f"a state for {type(made).__name__.strip('_')} that it cannot have")


def _values(data: bytes | bytearray, dtype: _Dtype, shape: tuple[Any, ...], *, fortran: bool) -> NDArray[Any]:
    kind = np.dtype(dtype.order + dtype.code)
    if len(shape) > 8 or not all(isinstance(side, int) and 0 <= side < 2**63 for side in shape):
        raise _Refused("an array of a shape that it cannot have")
    expected = math.prod(shape) * kind.itemsize
    if len(data) != expected:
        raise _Refused(f"{len(data)} bytes", f"{expected} bytes for an array of shape {shape} of {kind}")
    return np.frombuffer(bytes(data), kind).reshape(shape, order="F" if fortran else "C")


def _pairs(items: list[object]) -> dict[str, object]:
    if len(items) % 2:
        raise _Refused("a key without a value")
    # and no other keys: hashing tuples within tuples that repeat would take for ever
    return {_text(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _of(kind: type[Any], value: object) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"{type(value).__name__.strip('_')}", kind.__name__.strip("_"))
    return value


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise _Refused(f"{type(value).__name__.strip('_')} as a name", "text")
    return value


def _finished(value: object) -> object:
    if isinstance(value, _Array):
        if value.values is None:
            raise _Refused("an array without values")
        return value.values
    return value
