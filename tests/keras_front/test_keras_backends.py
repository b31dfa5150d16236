"""The other tests of this folder again, on each backend of Keras that this process does not run on; and the example."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FILES = {
    # not "contract": conformance runs it on each
    "layers": ["neurons", "native", "networks", "double"],
    "shortcuts": ["shortcut", "layouts", "matrix"],
    "training": ["training", "losses", "coefficient", "distribution"],
}
WITH_CELLS = ["shortcuts", "training"]  # of the matrix
XLA_FLAGS = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
TWO_DEVICES = {"XLA_FLAGS": XLA_FLAGS, "SBP_TEST_DEVICES": "2"}
BACKENDS = ["tensorflow", "jax", "torch"]
# Keras's default; a process keeps the backend that it started with
CURRENT = os.environ.get("KERAS_BACKEND", "tensorflow")


def run(backend, *arguments, **settings):
    for package in ("keras", backend):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"} | settings
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=HERE,
        timeout=580,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.long
@pytest.mark.parametrize("part", ["layers", *(pytest.param(part, marks=pytest.mark.matrix) for part in WITH_CELLS)])
@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != CURRENT])
def test_the_front_end_passes_its_tests_on(backend, part, pytestconfig):
    files = [f"test_keras_{name}.py" for name in FILES[part]]
    settings = TWO_DEVICES if backend == "jax" else {}
    # asked for the cells of the matrix alone, only those
    selected = ("-m", pytestconfig.option.markexpr) if pytestconfig.option.markexpr else ()
    output = run(backend, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", *selected, *files, **settings)
    assert " passed" in output


@pytest.mark.matrix
@pytest.mark.skipif(CURRENT == "torch", reason="Keras distributes on TensorFlow and JAX only")
def test_two_devices_train_as_one_does_on_this_processes_backend():
    file = "test_keras_distribution.py"
    output = run(CURRENT, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", file, **TWO_DEVICES)
    assert "2 passed" in output


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_example_learns_on(backend):
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    output = run(backend, str(HERE.parents[1] / "examples" / "keras_digits.py"))
    name, _, accuracy = output.strip().splitlines()[-1].partition(": ")
    assert name == f"accuracy of the main branch on {backend}"
    assert float(accuracy) > 0.85
