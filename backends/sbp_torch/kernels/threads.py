"""Runs the parts of a piece of work side by side, on the threads that torch's own operations use.

OpenMP's threads go on spinning for milliseconds after an operation, so threads of one's own would have to share the
cores with them. Where torch has no OpenMP that can be called, a pool of threads takes its place.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_Task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(parts: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call every part, one on each thread, and return what they give, in order.

    The parts must let go of Python's lock for the most of their time.

    Raises:
        BaseException: what a part raised; of several, the first part's.
    """
    if len(parts) == 1:
        return [parts[0]()]
    team = _openmp()
    if team is None:
        futures = [_pool(len(parts) - 1).submit(part) for part in parts[1:]]
        return [parts[0](), *(future.result() for future in futures)]
    return _on_team(team, parts)


def _on_team(team: Callable[..., None], parts: Sequence[Callable[[], Any]]) -> list[Any]:
    # each thread takes parts until none is left: OpenMP may give fewer threads than it is asked for
    left = collections.deque(range(len(parts)))
    results: dict[int, Any] = {}
    errors: dict[int, BaseException] = {}

    def work(_: Any) -> None:
        while left:
            try:
                index = left.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                results[index] = parts[index]()
            except BaseException as error:  # must not pass through OpenMP
                errors[index] = error

    team(_Task(work), None, len(parts), 0)
    if errors:
        raise errors[min(errors)]
    # a Ctrl-C between two lines of `work` would leave a part out
    return [results[index] if index in results else parts[index]() for index in range(len(parts))]


@functools.cache
def _openmp() -> Callable[..., None] | None:
    """Return the entry point of the OpenMP library that torch loaded, None where there is none."""
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        # torch makes the names of its own OpenMP global; GNU's, LLVM's and Intel's have this one on Linux
        entry = ctypes.CDLL(None).GOMP_parallel
    except (OSError, TypeError, AttributeError):
        return None
    entry.argtypes = (_Task, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    entry.restype = None
    return entry


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="sbp-fused")


if hasattr(os, "register_at_fork"):  # not on Windows
    # threads do not survive a fork: a child starts its own
    os.register_at_fork(after_in_child=_pool.cache_clear)
