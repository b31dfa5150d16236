"""What Keras hands down is the adapter's own function on the very tensors; on whichever backend Keras is set to.

That is why conformance runs these through Keras on a sample of its cases only.
"""

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import LIFSpec, LIFState, Sigmoid
from sbp_keras import native
from sbp_keras.engine import make_engine

SPECS = {
    "fresh": LIFSpec(),
    "learnt": LIFSpec(learn_decay=True, decay=0.7, input_gain="complement", surrogate=Sigmoid()),
    "current, delayed": LIFSpec(synaptic_decay=0.5, output_delay=1, reset="soft", threshold=0.6),
    "complementary": LIFSpec.complementary(),
}


def recorded(monkeypatch, name):
    """Replace a function of the adapter by one that notes its calls and gives back what the test can know again."""
    calls, real = [], getattr(native.adapter(), name)

    def record(*arguments, **options):
        calls.append((arguments, options, real(*arguments, **options)))
        return calls[-1][2]

    monkeypatch.setattr(native.adapter(), name, record)
    return calls


def same(one, other):
    assert keras.backend.standardize_dtype(one.dtype) == keras.backend.standardize_dtype(other.dtype)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(ops.cast(tensor, "float64")) for tensor in (one, other)))


def test_firing_is_the_adapters(monkeypatch):
    calls = recorded(monkeypatch, "spike")
    x, surrogate = ops.convert_to_tensor([-0.5, 0.0, 0.25]), Sigmoid(width=0.7)
    for inclusive in (False, True):
        found = sbp_keras.spike(x, surrogate, inclusive=inclusive)
        (given, spec), options, output = calls.pop()
        assert (given is x, spec is surrogate, options, found is output) == (True, True, {"inclusive": inclusive}, True)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_neurons_steps_are_the_adapters(spec, dtype, with_state, monkeypatch):
    calls = recorded(monkeypatch, "lif")
    layer = sbp_keras.LIF(spec, return_state=True, dtype=dtype)
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(0.4, 0.8, (2, 3, 4)), dtype)
    parts = {name: ops.full((2, 4), 0.1 * place, dtype) for place, name in enumerate(LIFState._fields)}
    given = LIFState(**{name: parts[name] for name in spec.state_parts})
    output, final = layer(x, state=given if with_state else None)
    [((inputs, its_spec, state), options, (its_output, its_final))] = calls
    same(inputs, x)
    assert its_spec == spec
    for one, other in zip(state or (), given, strict=with_state):
        assert one is other is None or same(one, other) is None
    decay = options.pop("decay")
    assert options == {"time_axis": 1}
    if spec.learn_decay:
        held = float(ops.convert_to_numpy(ops.cast(decay, "float32")))
        assert held == pytest.approx(0.7, rel=1e-2 if dtype == "bfloat16" else 1e-6)
    else:
        assert decay is None
    same(output, its_output)
    assert final._asdict().keys() == {name for name, part in its_final._asdict().items() if part is not None}
    for name, part in final._asdict().items():
        same(part, getattr(its_final, name))


def test_gradients_and_compiled_functions_are_the_adapters():
    engine = make_engine()
    for name in ("vjp", "run"):
        assert getattr(engine, name).__func__ is getattr(type(native.engine()), name)
