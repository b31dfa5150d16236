"""What a Shortcut is attached to, against the ways it is run: a test for each cell of the table."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # processes that the modes start import them by name

from matrix_modes import MODES, Case
from matrix_nets import ATTACHED, installed

# two processes take seconds to start: one network stands for all, unless all are asked for (make matrix-peers)
STANDS_FOR_ALL, EVERY_NETWORK = "sbp ResNet", "SBP_TEST_EVERY_NETWORK" in os.environ
CELLS = [
    pytest.param(net, mode, id=f"{net}-{mode}", marks=pytest.mark.matrix(net, "PyTorch", mode))
    for net in ATTACHED
    for mode in MODES
    if mode not in ("DDP", "FSDP2") or net == STANDS_FOR_ALL or EVERY_NETWORK
]


@pytest.mark.parametrize(("net", "mode"), CELLS)
def test_a_shortcut_does_what_it_says(net, mode, matrix_says):
    entry = ATTACHED[net]
    if not installed(entry):
        pytest.skip(f"{entry.package} is not installed: its requirements conflict with those of the tests")
    torch.compiler.reset()
    matrix_says(MODES[mode](Case(entry)) or "ok")
