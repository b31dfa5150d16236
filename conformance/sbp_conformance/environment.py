"""Where a run took place, for its reports."""

from __future__ import annotations

import datetime
import os
import platform

import numpy as np

import sbp_core


def environment() -> dict[str, str]:
    """Return names and values, texts all."""
    return {
        "sbp": sbp_core.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.platform(),
        "machine": f"{platform.machine()}, {os.cpu_count() or 1} cores",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
