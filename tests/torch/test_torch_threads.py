"""Work is spread over the threads that torch has, each part done once, whatever runs it."""

import sys
import threading
from pathlib import Path

import pytest
import torch

from sbp_core import LIFSpec
from sbp_torch import lif
from sbp_torch.kernels import fused, threads

PARTS = 3


@pytest.fixture
def several_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(PARTS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["openmp", "pool"])
def runner(request, monkeypatch, several_threads):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("this build of torch has no OpenMP that can be called")
    return request.param


def test_the_parts_run_side_by_side_and_their_results_come_in_order(runner):
    together = threading.Barrier(PARTS, timeout=60)

    def part(index):
        together.wait()
        return index, threading.get_ident()

    found = threads.run([lambda index=index: part(index) for index in range(PARTS)])
    assert [index for index, _ in found] == list(range(PARTS))
    assert len({thread for _, thread in found}) == PARTS


def test_an_error_in_a_part_is_raised_where_the_work_was_asked_for(runner):
    calls = []

    def fails():
        calls.append(1)
        raise ArithmeticError("of the second part")

    with pytest.raises(ArithmeticError, match="of the second part"):
        threads.run([lambda: 1, fails, lambda: 3])
    assert len(calls) == 1
    assert threads.run([lambda: 1, lambda: 2]) == [1, 2]


def test_parts_that_a_smaller_team_leaves_are_done_all_the_same():
    # one thread, that comes back before it took anything
    assert threads._on_team(lambda work, *_: None, [lambda: 1, lambda: 2]) == [1, 2]
    assert threads._on_team(lambda work, *_: work(None), [lambda: 1, lambda: 2]) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by /proc")
def test_the_threads_are_those_of_torchs_own_operations(several_threads):
    if threads._openmp() is None:
        pytest.skip("this build of torch has no OpenMP that can be called")
    torch.randn(1 << 20).exp()  # starts them
    before = len(list(Path("/proc/self/task").iterdir()))
    threads.run([lambda: None] * PARTS)
    assert len(list(Path("/proc/self/task").iterdir())) == before


@pytest.mark.skipif(not fused.available(), reason="numba is not installed")
def test_the_number_of_threads_changes_no_bit(runner):
    def results():
        x = torch.randn(4, 2, 1001, generator=torch.Generator().manual_seed(7), requires_grad=True)
        output, _ = lif(x, LIFSpec(surrogate="arctan"), implementation="fused")
        return output, torch.autograd.grad(output, x, torch.ones_like(output))[0]

    many = results()
    torch.set_num_threads(1)
    for one, same in zip(results(), many, strict=True):
        assert torch.equal(one, same)
