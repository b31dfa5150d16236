"""Every backend passes the suite, each part of it in a process of its own: a test for each run of the command line.

``python -m sbp_conformance`` runs everything on every backend, one case like the other. Here two things are spared:

- What Keras hands down is run whole by the adapter that it is handed to, and through Keras one case in six: firing, a
  neuron's steps and schedules are that adapter's own functions on the very tensors (``test_keras_native.py``).
- JAX compiles each operation of a network that runs without ``jax.jit``, which takes five times as long as the network
  at once. There all networks run compiled, as JAX's users run them, and the five of :data:`SAMPLE` also without.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

from sbp_conformance.mutants.hunt import chosen, hunt
from sbp_core.reference.backend import ReferenceBackend

NEEDED = {
    "torch": ["torch"],
    "tf": ["tensorflow"],
    "jax": ["jax", "flax", "optax"],
    "keras-tensorflow": ["keras", "tensorflow"],
    "keras-jax": ["keras", "jax"],
    "keras-torch": ["keras", "torch"],
}
FULL = ("float64", "float32")
HANDED_DOWN = ("surrogate", "neuron", "schedule", "edges")
ADDED = ("loss", "calls", "training")
NETWORKS = ("--level", "network", "--mode")
MODES = {"torch": {"eager", "compiled", "vmapped"}, "jax": {"eager", "compiled", "vmapped"}, "keras-torch": {"eager"}}


def levels(*names):
    return [word for name in names for word in ("--level", name)]


#: The networks that together catch most of what all catch.
SAMPLE = (
    *("network-full-neuron", "network-learnt-decay-clif", "network-coefficient-0", "network-spikformer_cifar"),
    "network-current-detached-reset-next",
)
#: What a test runs: its options, and the levels that must have run in both precisions without being compiled.
PARTS = {
    "all": ([], ("surrogate", "neuron", "random", "edges", *ADDED, "network")),
    "all but networks": (levels(*HANDED_DOWN, "random", *ADDED), ("surrogate", "neuron", "random", "edges", *ADDED)),
    "what is handed down": ([*levels(*HANDED_DOWN), "--every", "6"], ("surrogate", "neuron", "edges")),
    "what is added": (levels(*ADDED, "network"), (*ADDED, "network")),
    "what is added but networks": (levels(*ADDED), ADDED),
    "losses at the edges": (["--level", "edges", "--case", "edges-*loss*", "--mode", "eager"], ("edges",)),
    # a case that is asked for by name is compiled in every dtype that it has
    "networks, compiled": ([*NETWORKS, "compiled", "--case", "network-*"], ()),
    "networks, a sample": ([*NETWORKS, "eager", *(word for case in SAMPLE for word in ("--case", case))], ("network",)),
}
KERAS = ["what is handed down", "losses at the edges"]
RUN = {
    "torch": ["all"],
    "tf": ["all but networks"],  # its networks are Keras's
    "jax": ["all but networks", "networks, compiled", "networks, a sample"],
    "keras-tensorflow": [*KERAS, "what is added"],
    "keras-jax": [*KERAS, "what is added but networks", "networks, compiled", "networks, a sample"],
    "keras-torch": [*KERAS, "what is added"],
}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("backend", "part"), [(backend, part) for backend, parts in RUN.items() for part in parts])
def test_the_backend_equals_the_reference(backend, part, tmp_path):
    for package in NEEDED[backend]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"not installed: {package}")
    options, eager = PARTS[part]
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "sbp_conformance", "--backend", backend, *options, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(file.read_text())["runs"]
    assert (run["backend"], run["passed"]) == (backend, True)
    ran = {(outcome["level"], outcome["mode"], outcome["dtype"]) for outcome in run["outcomes"]}
    for level in eager:
        # training runs once in each precision, and TensorFlow alone offers none
        if (backend, level) != ("tf", "training"):
            assert {(level, "eager", dtype) for dtype in FULL} <= ran
    modes = MODES.get(backend, {"eager", "compiled"})
    if "all" in part or part == "what is added":
        assert {mode for _, mode, _ in ran} == modes
    for level in {"neuron", "surrogate", "loss"} & set(eager) if "compiled" in modes and "handed" not in part else ():
        assert {(level, "compiled", dtype) for dtype in FULL} <= ran
    if part == "networks, compiled":
        assert {("network", "compiled", dtype) for dtype in FULL} == ran


def test_the_sample_of_networks_catches_all_but_a_few_of_the_faults_that_all_networks_catch():
    reference = "sbp_core.reference.backend:make_backend"
    mutants = [mutant for mutant in chosen(reference, ReferenceBackend()) if mutant.level == "network"]
    caught = [found.caught for found in hunt(reference, ReferenceBackend(), mutants, cases=SAMPLE)]
    assert len(caught) >= 59
    assert sum(caught) >= len(caught) - 6


def test_every_level_runs_on_every_backend():
    from sbp_conformance.levels import LEVELS

    for parts in RUN.values():
        named = [word for part in parts for word in PARTS[part][0]]
        assert "all" in parts or {*LEVELS} - {*named} <= {"random", "network", "training"}
