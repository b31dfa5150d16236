"""Every backend passes the suite. One run of the command line serves all the tests of this file."""

import importlib.util
import json
import subprocess
import sys

import pytest

NEEDED = {
    "torch": ["torch"],
    "tf": ["tensorflow"],
    "jax": ["jax", "flax", "optax"],
    "keras-tensorflow": ["keras", "tensorflow"],
    "keras-jax": ["keras", "jax"],
    "keras-torch": ["keras", "torch"],
}
MODES = {"torch": ("compiled", "vmapped"), "jax": ("compiled", "vmapped"), "keras-torch": ()}


def missing(backend):
    return [package for package in NEEDED[backend] if importlib.util.find_spec(package) is None]


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """Run the backends whose tests are selected, side by side."""
    chosen = {item.callspec.params["backend"] for item in request.session.items if item.path == request.path}
    chosen = [name for name in NEEDED if name in chosen and not missing(name)]
    file = tmp_path_factory.mktemp("conformance") / "results.json"
    options = [word for name in chosen for word in ("--backend", name)]
    command = [sys.executable, "-m", "sbp_conformance", *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n")
    assert file.exists(), done.stderr
    results = json.loads(file.read_text())
    assert done.returncode == (0 if results["passed"] else 1)
    return {run["backend"]: run for run in results["runs"]} | {"report": done.stdout}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", NEEDED)
def test_the_backend_equals_the_reference(backend, request):
    if absent := missing(backend):
        pytest.skip(f"not installed: {', '.join(absent)}")
    runs = request.getfixturevalue("runs")
    run = runs[backend]
    assert run["passed"], runs["report"]
    ran = {(outcome["level"], outcome["mode"], outcome["dtype"]) for outcome in run["outcomes"]}
    modes = {outcome["mode"] for outcome in run["outcomes"]}
    # Keras runs eagerly on PyTorch
    assert modes == {"eager", *MODES.get(backend, ("compiled",))}
    # TensorFlow's networks are Keras's
    networks = () if backend == "tf" else ("network", "training")
    for level in ("surrogate", "neuron", "random", "loss", "edges", *networks):
        assert {(level, "eager", "float64"), (level, "eager", "float32")} <= ran
    assert ("schedule", "eager", "float32") in ran
    if "compiled" in modes:
        for level in ("surrogate", "neuron", "loss"):
            assert {(level, "compiled", "float64"), (level, "compiled", "float32")} <= ran
        assert not networks or {("network", "compiled", "float64"), ("training", "compiled", "float32")} <= ran
    if "vmapped" in modes:
        assert {("neuron", "vmapped", "float64"), ("surrogate", "vmapped", "float32")} <= ran
