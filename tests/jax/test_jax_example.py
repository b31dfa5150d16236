"""The example runs as a person would run it, and its network learns."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "jax_digits.py"


def test_the_digits_example_learns_and_its_coefficient_falls_to_zero(tmp_path):
    result = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = re.findall(r"coefficient ([\d.]+), loss ([\d.]+), test accuracy ([\d.]+)%", result.stdout)
    coefficients = [float(coefficient) for coefficient, _, _ in lines]
    assert coefficients == [0.188, 0.125, 0.062, 0.0]
    assert float(lines[-1][2]) > 90  # 97.8 when it was written; chance is 10
