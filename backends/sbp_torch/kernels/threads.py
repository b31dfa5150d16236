"""Runs native work side by side, on the threads that torch's own operations use.

OpenMP's threads go on spinning for milliseconds after an operation, so threads of one's own would have to share the
cores with them. Where torch has no OpenMP that can be called, a pool of threads takes its place. No thread runs Python
on the way: on busy cores it would wait for Python's lock while others spin.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False


def run(task: int, data: int, count: int) -> None:
    """Call the native function at address ``task`` with the address ``data`` on up to ``count`` threads at once.

    It takes its share of the work itself, and comes back when none is left: fewer threads may call it. In a process
    that was forked it runs on one thread, as OpenMP's do not survive a fork.
    """
    if count == 1 or _forked:
        _TASK(task)(data)
        return
    team = _openmp()
    if team is not None:
        team(task, data, count, 0)
        return
    others = [_pool(count - 1).submit(_TASK(task), data) for _ in range(count - 1)]
    _TASK(task)(data)
    for other in others:
        other.result()


@functools.cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """Return the entry point of the OpenMP library that torch loaded, None where there is none."""
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        # torch makes the names of its own OpenMP global; GNU's, LLVM's and Intel's have this one on Linux
        entry = ctypes.CDLL(None).GOMP_parallel
    except (OSError, TypeError, AttributeError):
        return None
    entry.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    entry.restype = None
    return entry


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="sbp-fused")


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_in_child)
