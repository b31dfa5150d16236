"""What every benchmark writes down: ratios of the same round, the allocator's settings, whole results."""

import json
import os
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def ratio(times, name, base):
    """Return the median over rounds of a contender's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def allocator():
    """Return what glibc's allocator is told by the environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}


def write(path, result):
    """Write a result as JSON: the whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    partial.replace(path)
