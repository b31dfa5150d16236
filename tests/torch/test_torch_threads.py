"""Work is spread over the threads that torch has, each part done once, whatever runs it, and no thread runs Python."""

import multiprocessing
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from sbp_core import LIFSpec
from sbp_torch import lif
from sbp_torch.kernels import native, threads

numba = pytest.importorskip("numba", reason="numba is not installed")
THREADS = 3


@pytest.fixture
def several_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["openmp", "pool"])
def runner(request, monkeypatch, several_threads):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("this build of torch has no OpenMP that can be called")
    return request.param


@numba.njit(nogil=True)
def mark(calls, decay, block, start, stop):
    for i in range(start, stop):
        calls[i] += decay
    return float(stop - start)


def marked(neurons, size, most_threads=THREADS):
    calls = np.zeros(neurons)
    total = native.run(
        mark, [calls], np.ones(1), [], neurons=neurons, block=4, size=size, most_threads=most_threads, sums=True
    )
    return calls, total


@pytest.mark.parametrize(("neurons", "size"), [(1, 8), (8, 8), (9, 8), (1000, 7), (5, 1), (0, 4)])
def test_each_neuron_is_done_once_and_the_results_are_added(runner, neurons, size):
    calls, total = marked(neurons, size)
    assert calls.tolist() == [1.0] * neurons
    assert total == neurons


def test_a_part_that_fails_is_said(several_threads):
    @numba.njit(nogil=True)
    def fails(calls, decay, block, start, stop):
        if start == 2:
            raise ValueError("in a part")
        return 0.0

    with pytest.raises(RuntimeError, match=r"[1-9] of 4 parts of a neuron's loop failed"):
        native.run(fails, [np.zeros(4)], np.ones(1), [], neurons=4, block=1, size=1, most_threads=1, sums=True)


@numba.njit(nogil=True)
def meet(here, decay, block, start, stop):
    # ends when as many parts are at it at once as there are threads
    here[start] = 1.0
    while here.sum() < here.size:
        pass
    return 0.0


def test_the_threads_work_side_by_side_while_another_holds_pythons_lock(runner):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: threads cannot meet quickly")
    # a thread of Python's that never lets go of the lock for long: native work must not ask for it
    stop = threading.Event()

    def hold():
        while not stop.is_set():
            sum(range(1000))

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        native.run(meet, [np.zeros(2)], np.ones(1), [], neurons=2, block=1, size=1, most_threads=2, sums=True)
    finally:
        stop.set()
        holder.join()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by /proc")
def test_the_threads_are_those_of_torchs_own_operations(several_threads):
    if threads._openmp() is None:
        pytest.skip("this build of torch has no OpenMP that can be called")
    torch.randn(1 << 20).exp()  # starts them
    before = len(list(Path("/proc/self/task").iterdir()))
    marked(1000, 1)
    assert len(list(Path("/proc/self/task").iterdir())) == before


def results():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 2, 20011, generator=generator, requires_grad=True)
    logit = torch.zeros((), requires_grad=True)
    output, _ = lif(x, LIFSpec(surrogate="arctan"), decay=torch.sigmoid(logit), implementation="fused")
    return output, *torch.autograd.grad(output, (x, logit), torch.randn(output.shape, generator=generator))


def test_the_number_of_threads_changes_no_bit(runner):
    many = results()
    torch.set_num_threads(1)
    for one, same in zip(results(), many, strict=True):
        assert torch.equal(one, same)


def in_a_fork(queue):
    torch.set_num_threads(THREADS)
    queue.put([part.detach().numpy() for part in results()])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_computes_the_same_and_does_not_hang(several_threads):
    expected = results()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_a_fork, args=(queue,), daemon=True)
    child.start()
    try:
        found = queue.get(timeout=60)
    finally:
        child.kill()
    for one, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, same.detach().numpy())
