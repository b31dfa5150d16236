"""The examples run as a person would run them, and their networks learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("jax_digits.py", [0.188, 0.125, 0.062, 0.0]),
        ("jax_equinox.py", [0.225, 0.2, 0.175, 0.15, 0.125, 0.1, 0.075, 0.05, 0.025, 0.0]),
    ],
)
def test_an_example_learns_and_its_coefficient_falls_to_zero(script, expected, tmp_path):
    command = [sys.executable, EXAMPLES / script]
    # whole trainings: there XLA's optimisations, which `make test` does without, pay
    environment = os.environ | {"XLA_FLAGS": ""}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = re.findall(r"coefficient ([\d.]+), loss ([\d.]+), test accuracy ([\d.]+)%", result.stdout)
    assert [float(coefficient) for coefficient, _, _ in lines] == expected
    assert float(lines[-1][2]) > 90  # 97.8 and 97.4 when they were written; chance is 10
