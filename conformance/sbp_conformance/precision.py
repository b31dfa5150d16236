"""What each dtype can hold, so that a case's inputs mean the same to a backend and to the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Half the distance between 1 and the next number: the worst relative error of one rounding.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
#: Below this a dtype loses relative precision.
SMALLEST_NORMAL = {"float64": 2.0**-1022, "float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}
DTYPES = tuple(UNIT_ROUNDOFF)
FULL = ("float64", "float32")
HALF = ("bfloat16", "float16")


def representable(values: ArrayLike, dtype: str) -> NDArray[np.float64]:
    """Round ``values`` to what ``dtype`` can hold, ties to even; the result is float64.

    Example:
        >>> representable([1.0, 1.00390625, 1.01171875], "bfloat16").tolist()
        [1.0, 1.0, 1.015625]
    """
    if dtype != "bfloat16":
        return np.asarray(values, dtype).astype(np.float64)
    # a bfloat16 is the upper half of a float32
    bits = np.asarray(values, np.float32).reshape(np.shape(values)).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)
