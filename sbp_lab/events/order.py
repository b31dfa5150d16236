"""What readers do with events that a camera wrote out of the order of time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_lab.events.events import Events

#: "strict": a time before the one in front of it is damage, and an error; "sort": the camera may have written so, and
#: events are put in order, those of one time as they were.
Order: TypeAlias = Literal["strict", "sort"]


def in_order(
    path: Path,
    columns: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]],
    size: tuple[int, int],
    order: Order,
    place: Callable[[int], str],
) -> Events:
    """Return the events of ``columns``, t, x, y and p, in the order of time.

    Args:
        path: of their file, for messages.
        columns: as in the file.
        size: the sensor's (height, width).
        order: what to do where a time goes back.
        place: where an event stands in the file, in words.

    Raises:
        ValueError: a time goes back and ``order`` is "strict".
    """
    validation.choice("order", order, ("strict", "sort"))
    t = columns[0]
    back = np.flatnonzero(t[1:] < t[:-1])
    if back.size and order == "strict":
        first = int(back[0]) + 1
        raise ValueError(
            f"{path}, {place(first)}: expected a time of at least {t[first - 1]} us, that of the event in front, "
            f"found {t[first]} us"
        )
    if back.size:
        places = np.argsort(t, kind="stable")
        columns = (t[places], columns[1][places], columns[2][places], columns[3][places])
    return Events(t=columns[0], x=columns[1], y=columns[2], p=columns[3], size=size)
