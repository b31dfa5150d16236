"""The harness makes a backend of an engine: what the engine has, in the layout that it has."""

import types

import numpy as np
import pytest

from sbp_conformance.harness import Harness, as_backend
from sbp_conformance.levels import cases_of
from sbp_conformance.run import Selection, plan
from sbp_core import LIFSpec, LIFState
from sbp_core.reference.backend import ReferenceBackend
from sbp_core.taps import TapLayout

PARTS = ("spike", "neuron", "loss", "schedule", "network", "training")


def engine(**parts):
    """Return an engine of NumPy that differentiates nothing."""
    given = {
        "name": "numpy",
        "versions": {"numpy": np.__version__},
        "modes": ("eager", "vmapped"),
        "dtypes": ("float64",),
        "array": np.asarray,
        "numpy": np.asarray,
        "vjp": lambda function, inputs, cotangents, mode: (function(*inputs), inputs),
    }
    return types.SimpleNamespace(**(given | parts))


@pytest.mark.parametrize(
    ("part", "members"),
    [
        ("spike", {"spike"}),
        ("neuron", {"neuron"}),
        ("loss", {"loss"}),
        ("run", {"schedule"}),
        ("network", {"network", "training"}),
    ],
)
def test_what_an_engine_does_not_define_is_not_offered(part, members):
    backend = as_backend(engine(**{part: print}))
    assert {name for name in PARTS if callable(getattr(backend, name))} == members
    lacks = {lack.name for lack in plan(backend, Selection()).not_offered if lack.kind == "member"}
    needed = {
        case.needs[0] for level in ("surrogate", "neuron", "loss", "schedule", "network") for case in cases_of(level)
    }
    assert lacks == needed - members


def test_an_engine_that_offers_nothing_is_refused():
    with pytest.raises(TypeError, match="no spike, neuron, loss, run or network"):
        as_backend(engine())


@pytest.mark.parametrize(
    ("found", "wrong", "right"),
    [
        (engine(spike=print, nueron=print), "nueron", "neuron"),
        (engine(spike=print, percision=print), "percision", "precision"),
        (engine(loss=print, networks=print), "networks", "network"),
        (types.SimpleNamespace(name="a", neuron=print, vjp=print, array=print, nunpy=print), "nunpy", "numpy"),
        (types.SimpleNamespace(name="a", neuron=print, shedule=print), "shedule", "schedule"),
        (types.SimpleNamespace(name="a", neuron=print, network=print, trainning=print), "trainning", "training"),
    ],
)
def test_a_misspelt_member_is_an_error_that_says_what_is_meant(found, wrong, right):
    with pytest.raises(TypeError, match=f"it has '{wrong}' and no '{right}': is that meant?"):
        as_backend(found)


def test_other_names_are_no_misspellings():
    # a member that is there may have a helper of nearly its name; so may one that is not, in private
    given = {"neuron": print, "neurons": (), "_network": print, "device": "cpu", "close": print, "train": print}
    as_backend(engine(**given))
    as_backend(types.SimpleNamespace(name="a", **given))


def test_a_backend_stays_what_it_is():
    backend = ReferenceBackend()
    assert as_backend(backend) is backend


@pytest.mark.parametrize("layout", ["channels last", TapLayout(time_axis=None), TapLayout(time_axis="calls")])
def test_a_layout_that_is_none_is_refused(layout):
    with pytest.raises(TypeError, match="layout must be a TapLayout with time_axis 0 or 1"):
        Harness(engine(neuron=print, layout=layout))


def shapes_seen(layout, mode, shape):
    """Return the shapes that an engine's neuron and vjp see, and the result's."""
    seen = {}

    def vjp(function, inputs, cotangents, mode):
        seen["inputs"] = [part.shape for part in inputs]
        seen["cotangents"] = [part.shape for part in cotangents]
        if mode == "eager":
            return function(*inputs), inputs
        outputs = [function(*sample) for sample in zip(*inputs, strict=True)]
        return [np.stack(parts) for parts in zip(*outputs, strict=True)], inputs

    def neuron(spec, dtype):
        def run(x, state, decay_logit):
            seen.update(x=x.shape, potential=state.potential.shape, logit=np.shape(decay_logit))
            return x, state

        return run

    backend = as_backend(engine(neuron=neuron, vjp=vjp, layout=layout))
    x = np.arange(float(np.prod(shape))).reshape(shape)
    state = LIFState(x[0], x[0] + 0.5)
    spec = LIFSpec(synaptic_decay=0.5, learn_decay=True)
    found = backend.neuron(spec, x, state, x, state, decay_logit=0.25, dtype="float64", mode=mode)
    # the engine gives back what it gets, so the result must be what went in
    np.testing.assert_array_equal(found.output, x)
    np.testing.assert_array_equal(found.grad_input, x)
    for part, gradient, given in zip(found.state, found.grad_state, state, strict=True):
        np.testing.assert_array_equal(part, given)
        np.testing.assert_array_equal(gradient, given)
    assert found.grad_decay_logit == (0.25 if mode == "eager" else 0.25 * shape[1])
    return seen


def test_time_is_where_the_engine_has_it():
    first = shapes_seen(TapLayout(), "eager", (4, 2, 3))
    assert (first["x"], first["potential"], first["logit"]) == ((4, 2, 3), (2, 3), ())
    second = shapes_seen(TapLayout(time_axis=1), "eager", (4, 2, 3))
    assert (second["x"], second["potential"]) == ((2, 4, 3), (2, 3))
    assert second["cotangents"] == [(2, 4, 3), (2, 3), (2, 3)]


def test_samples_that_are_mapped_are_a_batch_of_one_each_and_share_the_decay():
    first = shapes_seen(TapLayout(), "vmapped", (4, 2, 3))
    assert first["inputs"] == [(2, 4, 1, 3), (2, 1, 3), (2, 1, 3), (2,)]
    assert (first["x"], first["potential"], first["logit"]) == ((4, 1, 3), (1, 3), ())
    second = shapes_seen(TapLayout(time_axis=1), "vmapped", (4, 2, 3))
    assert second["inputs"][0] == (2, 1, 4, 3)
    assert second["x"] == (1, 4, 3)


def test_a_state_with_other_parts_than_the_spec_is_refused():
    backend = as_backend(engine(neuron=lambda spec, dtype: lambda x, state, logit: (x, LIFState(x[0], spikes=x[0]))))
    x = np.ones((3, 2, 1))
    with pytest.raises(ValueError, match=r"parts \['potential'\], got \['potential', 'spikes'\]"):
        backend.neuron(LIFSpec(), x, None, x, LIFState(x[0]), decay_logit=None, dtype="float64", mode="eager")
