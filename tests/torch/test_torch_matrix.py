"""What a Shortcut is attached to, against the ways it is run: the cells of benchmarks/attach_matrix.py."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # processes that it starts import it by name

import attach_matrix

PROCESSES = {"DDP", "FSDP2"}
CELLS = [
    (net, mode)
    for net in attach_matrix.ATTACHED
    for mode in attach_matrix.MODES
    if mode not in PROCESSES or net == "sbp ResNet"  # two processes take seconds to start; the script runs them all
]


@pytest.mark.parametrize(
    ("net", "mode"),
    [pytest.param(*cell, id="-".join(cell), marks=pytest.mark.matrix(cell[0], "PyTorch", cell[1])) for cell in CELLS],
)
def test_a_shortcut_does_what_it_says(net, mode, matrix_says):
    entry = attach_matrix.ATTACHED[net]
    if not attach_matrix.installed(entry):
        pytest.skip(f"{entry.package} is not installed: its requirements conflict with those of the tests")
    torch.compiler.reset()
    matrix_says(attach_matrix.MODES[mode](attach_matrix.Case(entry)) or "ok")


def test_a_cell_that_fails_says_so(monkeypatch):
    def wrong(case):
        attach_matrix.close(torch.ones(1), torch.zeros(1))

    monkeypatch.setitem(attach_matrix.MODES, "wrong", wrong)
    entry = attach_matrix.ATTACHED["ANN ResNet"]
    assert attach_matrix.cell(entry, "wrong").startswith("AssertionError: Tensor-likes are not close")
    assert attach_matrix.cell(entry, "stripped") == "ok"
