"""The package as a whole: its backend, its example, its silence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sbp_conformance.worker import load
from sbp_core import LIFSpec, LIFState
from sbp_core.reference.backend import make_backend as make_reference

ROOT = Path(__file__).parents[2]


def test_importing_prints_nothing():
    result = subprocess.run([sys.executable, "-c", "import sbp_torch"], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_registered_backend_agrees_with_the_reference():
    backend, random = load("torch"), np.random.default_rng(3)
    spec = LIFSpec(learn_decay=True, surrogate="gaussian", output_delay=1, reset_value=-0.25)
    x, given = random.normal(0.8, 1.0, (3, 2, 3)), random.normal(size=(3, 2, 3))
    state = LIFState(random.normal(size=(2, 3)), None, np.ones((2, 3)))
    cotangent = LIFState(random.normal(size=(2, 3)), None, random.normal(size=(2, 3)))
    arguments = {"decay_logit": 0.3, "dtype": "float64"}
    found = backend.neuron(spec, x, state, given, cotangent, mode="eager", **arguments)
    expected = make_reference().neuron(spec, x, state, given, cotangent, mode="eager", **arguments)
    np.testing.assert_array_equal(found.output, expected.output)
    for name in ("grad_input", "grad_decay_logit"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-14)
    for part in ("potential", "spikes"):
        for name in ("state", "grad_state"):
            pair = (getattr(getattr(result, name), part) for result in (found, expected))
            np.testing.assert_allclose(*pair, rtol=1e-12, atol=1e-14)


def test_the_example_trains_the_main_branch():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples/torch_digits.py")], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    last = result.stdout.splitlines()[-1].split()
    assert last[last.index("coefficient") + 1] == "0.000"
    assert float(last[last.index("accuracy") + 1].rstrip("%")) > 90
