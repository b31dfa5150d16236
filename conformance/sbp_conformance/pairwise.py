"""A selection of combinations that covers every pair of values, where the full product would be too many."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
_Pair = tuple[tuple[str, int], tuple[str, int]]
_CANDIDATES = 40
_LIMIT = 10_000


def pairwise(
    factors: Mapping[str, Sequence[Any]],
    *,
    seed: int,
    complete: Sequence[str] = (),
    allowed: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:
    """Return rows, one value of each factor, in which every allowed pair of values of two factors occurs.

    Greedy: each row is the best of a few random ones. The same arguments give the same rows.

    Args:
        factors: name to values.
        seed: of the random choices.
        complete: factors whose full product is to occur as well.
        allowed: says of a row, or of a part of one, whether it may occur.

    Raises:
        ValueError: a pair is allowed by itself, but no whole row with it is.

    Example:
        >>> rows = pairwise({"a": (0, 1), "b": (0, 1), "c": (0, 1)}, seed=0)
        >>> sorted({(row["a"], row["b"]) for row in rows})
        [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    choose = random.Random(seed)
    indices = {name: range(len(values)) for name, values in factors.items()}

    def values_of(chosen: Mapping[str, int]) -> Row:
        return {name: factors[name][index] for name, index in chosen.items()}

    missing: dict[_Pair, None] = {  # a dict, for its order
        ((a, i), (b, j)): None
        for a, b in itertools.combinations(factors, 2)
        for i, j in itertools.product(indices[a], indices[b])
        if allowed(values_of({a: i, b: j}))
    }

    def best(fixed: Mapping[str, int]) -> dict[str, int]:
        found, score = None, -1
        attempts = 0
        while attempts < _CANDIDATES or found is None:
            attempts += 1
            if attempts > _LIMIT:
                raise ValueError(f"no allowed row has {values_of(fixed)!r}")
            row = {name: fixed[name] if name in fixed else choose.choice(options) for name, options in indices.items()}
            if not allowed(values_of(row)):
                continue
            gain = sum(pair in missing for pair in itertools.combinations(row.items(), 2))
            if gain > score:
                found, score = row, gain
        return found

    rows = []
    product = [
        dict(zip(complete, row, strict=True)) for row in itertools.product(*(indices[name] for name in complete))
    ]
    pending = product if complete else []
    while pending or missing:
        row = best(pending.pop(0) if pending else dict(next(iter(missing))))
        rows.append(values_of(row))
        for pair in itertools.combinations(row.items(), 2):
            missing.pop(pair, None)
    return rows
