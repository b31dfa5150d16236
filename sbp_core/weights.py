"""Weights under one set of names and layouts: checked before anything is written, saved and loaded as safetensors.

Names are those of the network's spec, ``layer1.0.conv1.weight``; of a wrapped network ``main.<name>``, and of its
branches ``branches.<tap>.<part>``. Kernels are (outputs, inputs, *space). Adapters say only where their variables are.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as serialised

from sbp_core.specs.base import Spec
from sbp_core.specs.networks import NetworkSpec

Array = NDArray[Any]

#: Version of what :func:`save` writes.
FORMAT = 1
_KEY = "sbp"
_MOST_SHOWN = 5


class Saved(NamedTuple):
    """What a file of weights holds.

    Attributes:
        weights: name to array.
        spec: of the network they belong to, None if the file does not say.
        notes: what else was noted, text by name.
    """

    weights: dict[str, Array]
    spec: Spec | None
    notes: dict[str, str]


def to_canonical(rank: int) -> tuple[int, ...]:
    """Return the axes that turn a kernel ``(*space, inputs, outputs)`` into ``(outputs, inputs, *space)``.

    That is the layout of Keras's and Flax's kernels of convolutions and linear layers. What has less than two axes
    stays as it is. ``np.argsort`` of the axes turns it back.

    Example:
        >>> to_canonical(4), to_canonical(2), to_canonical(1)
        ((3, 2, 0, 1), (1, 0), (0,))
    """
    return tuple(range(rank)) if rank < 2 else (rank - 1, rank - 2, *range(rank - 2))


def checked(shapes: Mapping[str, Sequence[int]], weights: Mapping[str, Any]) -> dict[str, Array]:
    """Return ``weights`` as arrays in the order of ``shapes``, each checked; the caller writes them after that.

    Args:
        shapes: name and canonical shape of everything that the model has.
        weights: name to array; bfloat16 comes back as float32, which holds it exactly.

    Raises:
        ValueError: names missing or unknown, or an array of another shape.
        TypeError: not a mapping, or an array that does not hold floating-point numbers.

    Example:
        >>> checked({"head.weight": (2, 3)}, {"head.weight": np.ones((3, 2))})
        Traceback (most recent call last):
        ...
        ValueError: weights['head.weight'] must have shape (2, 3), got (3, 2)
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a mapping from name to array, got {type(weights).__name__}")
    missing = [name for name in shapes if name not in weights]
    unknown = [name for name in weights if name not in shapes]
    if missing or unknown:
        raise ValueError(
            f"weights must have exactly the model's names; missing: {_some(missing)}; unknown: {_some(unknown)}"
            f"{_near(missing, unknown)}"
        )
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        array = np.asarray(weights[name])
        if array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"weights[{name!r}] must hold floating-point numbers, got {array.dtype}")
        if array.shape != tuple(shape):
            raise ValueError(f"weights[{name!r}] must have shape {tuple(shape)}, got {array.shape}")
        arrays[name] = array
    return arrays


def save(
    path: str | os.PathLike[str],
    weights: Mapping[str, Any],
    *,
    spec: Spec | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write weights to a safetensors file, under a temporary name first: a failure leaves what was there.

    Args:
        path: the file.
        weights: name to array, as an adapter's ``export_weights`` gives them.
        spec: of the network, kept as metadata.
        notes: text by name, kept as metadata.

    Raises:
        TypeError: an array that does not hold floating-point numbers.
        OSError: the file cannot be written.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = Path(folder.name) / "net.safetensors"
        >>> save(file, {"head.bias": np.zeros(3, np.float32)}, notes={"data": "digits"})
        >>> load(file).weights["head.bias"].tolist(), load(file).notes
        ([0.0, 0.0, 0.0], {'data': 'digits'})
        >>> folder.cleanup()
    """
    target = Path(path)
    arrays = checked({name: np.shape(array) for name, array in weights.items()}, weights)
    header = {"format": FORMAT, "spec": None if spec is None else spec.to_dict(), "notes": dict(notes or {})}
    # a view of another order would be written as it lies in memory
    laid = {key: np.ascontiguousarray(array).reshape(array.shape) for key, array in arrays.items()}
    content = serialised(laid, {_KEY: json.dumps(header)})
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        # not safetensors' own writing, which gives other errors than OSError
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's file is for its owner alone
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> Saved:
    """Read what :func:`save` wrote; of another safetensors file the arrays alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, damaged, or written by a newer version; the message names the file.

    Example:
        >>> load("nowhere.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no file of weights 'nowhere.safetensors'
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of weights {os.fspath(path)!r}")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is no safetensors file, or damaged: {error}") from error
    return _described(os.fspath(path), arrays, metadata.get(_KEY))


def save_network(
    path: str | os.PathLike[str], weights: Mapping[str, Any], spec: object, notes: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights with its spec, as an adapter's ``save`` does.

    Args:
        path: the file.
        weights: what ``export_weights`` gave.
        spec: of the network; an object without one has no network's spec.
        notes: text by name.

    Raises:
        TypeError: no spec of a network.
        OSError: the file cannot be written.
    """
    if not isinstance(spec, NetworkSpec):
        raise TypeError(
            "model must be a Network, or a Shortcut of one: another net's file would not say how to build it. Save "
            "sbp_core.weights.save(path, export_weights(model))"
        )
    save(path, weights, spec=spec, notes=notes)


def load_network(path: str | os.PathLike[str]) -> tuple[NetworkSpec, dict[str, Array]]:
    """Read the spec and the weights of a network; branches that were saved with it are left out.

    Everything is checked before it is returned, so that nothing is half loaded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: what :func:`load` refuses; a file that names no network, or whose weights are not that network's.
    """
    saved, name = load(path), os.fspath(path)
    if not isinstance(saved.spec, NetworkSpec):
        raise ValueError(
            f"{name!r} does not say which network it is of: build that, and import_weights(net, "
            f"sbp_core.weights.load({name!r}).weights)"
        )
    found = saved.weights
    if any(key.startswith("main.") for key in found) and not any(key in found for key in saved.spec.parameter_shapes()):
        found = {key.removeprefix("main."): value for key, value in found.items() if key.startswith("main.")}
    try:
        return saved.spec, checked(saved.spec.parameter_shapes(), found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name!r} holds other weights than its network has: {error}") from error


def _described(path: str, arrays: dict[str, Array], text: str | None) -> Saved:
    if text is None:
        return Saved(arrays, None, {})
    try:
        header = json.loads(text)
        version, spec, notes = header["format"], header["spec"], dict(header["notes"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path!r} has a damaged header: {text!r}") from error
    if version != FORMAT:
        raise ValueError(f"{path!r} has format {version}, and this version of sbp reads format {FORMAT}: update sbp")
    try:
        return Saved(arrays, None if spec is None else Spec.from_dict(spec), notes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path!r} has a network's spec that cannot be read: {error}") from error


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_SHOWN])) or "none"
    return shown if len(names) <= _MOST_SHOWN else f"{shown} and {len(names) - _MOST_SHOWN} more"


def _near(missing: Sequence[str], unknown: Sequence[str]) -> str:
    if not (missing and unknown):
        return ""
    near = get_close_matches(unknown[0], missing, n=1)
    return f"; is {unknown[0]!r} meant for {near[0]!r}?" if near else ""
