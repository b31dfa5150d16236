"""The suite bites: every planted fault is caught, and the reference itself raises no alarm.

A fault is the reference with one thing wrong, in the values or in the gradients, as a real adapter could have it.
"""

import numpy as np
import pytest

from sbp_conformance import Selection, run_backend
from sbp_core import LIFState, Schedule
from sbp_core.backend import LossResult, SpikeResult
from sbp_core.reference.backend import ReferenceBackend
from sbp_core.specs.surrogates import Rectangle, Sigmoid, Surrogate


class Altered(Surrogate):
    """A surrogate with its derivative replaced."""

    def __init__(self, inner, derivative):
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "changed", derivative)

    peak = property(lambda self: self.inner.peak)

    def derivative(self, x, xp):
        return self.changed(self.inner, x, xp)

    def antiderivative(self, x):
        return self.inner.antiderivative(x)


def slope(factor):
    return lambda inner, x, xp: inner.derivative(x, xp) * factor


def squeezed(factor):
    return lambda inner, x, xp: inner.derivative(x * factor, xp)


def naive_sigmoid(inner, x, xp):
    if not isinstance(inner, Sigmoid):
        return inner.derivative(x, xp)
    with np.errstate(over="ignore", invalid="ignore"):
        e = xp.exp(x / inner.width)
        return 4 * inner.height * e / (1 + e) ** 2


def closed_rectangle(inner, x, xp):
    edge = inner.width / 2 if isinstance(inner, Rectangle) else np.inf
    return xp.where(xp.abs(x) == edge, inner.peak, inner.derivative(x, xp))


def cut_off(inner, x, xp):
    return xp.where(xp.abs(x) > 9.0, 0.0, inner.derivative(x, xp))


def spike_fault(derivative=None, before=lambda given: {}, after=lambda result, given: result):
    class Faulty(ReferenceBackend):
        def spike(self, x, surrogate, cotangent, **given):
            surrogate = Altered(surrogate, derivative) if derivative else surrogate
            given |= {"x": x, "surrogate": surrogate, "cotangent": cotangent}
            given |= before(given)
            return after(super().spike(**given), given)

    return "surrogate", Faulty()


def neuron_fault(before=lambda given: {}, after=lambda result, given: result):
    class Faulty(ReferenceBackend):
        def neuron(self, spec, x, state, output_cotangent, state_cotangent, **given):
            given |= {"spec": spec, "x": x, "state": state}
            given |= {"output_cotangent": output_cotangent, "state_cotangent": state_cotangent}
            given |= before(given)
            return after(super().neuron(**given), given)

    return "neuron", Faulty()


def spec_fault(change):
    return neuron_fault(before=lambda given: {"spec": given["spec"].replace(**change(given["spec"]))})


def result_fault(change):
    return neuron_fault(after=lambda result, given: result._replace(**change(result, given)))


def loss_fault(before=lambda given: {}, after=lambda result, given: result):
    class Faulty(ReferenceBackend):
        def loss(self, main, branches, labels, coefficient, **given):
            given |= {"main": main, "branches": branches, "labels": labels, "coefficient": coefficient}
            given |= before(given)
            return after(super().loss(**given), given)

    return "loss", Faulty()


def schedule_fault(change):
    class Faulty(ReferenceBackend):
        def schedule(self, schedule, step, *, mode):
            return change(schedule, step)

    return "schedule", Faulty()


def spec_of_parts(function, state):
    return LIFState(*(None if part is None else function(part) for part in state))


def with_index(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


def flipped(output):
    return with_index(output, np.unravel_index(np.argmax(output), output.shape), 0.0)


class StaleState(ReferenceBackend):
    """Goes on from where the last call of the same shape ended."""

    def __init__(self):
        self.last = {}

    def neuron(self, spec, x, state, *arguments, **given):
        key = (spec.stores_spikes, spec.synaptic_decay is None, x.shape[1:], given["dtype"])
        result = super().neuron(spec, x, self.last.get(key) if state is None else state, *arguments, **given)
        self.last[key] = result.state
        return result if state is not None else result._replace(grad_state=LIFState(None))


def in_single_precision(array):
    return np.asarray(array, np.float32).astype(array.dtype)


FAULTS = {
    # surrogate
    "spike at 0 with >": spike_fault(before=lambda given: {"inclusive": True}),
    "no spike at 0 with >=": spike_fault(before=lambda given: {"inclusive": False}),
    "spikes of -1 and 1": spike_fault(after=lambda r, _: r._replace(spikes=2 * r.spikes - 1)),
    "slope 0.1% off": spike_fault(slope(1.001)),
    "slope 0.01% off": spike_fault(slope(1.0001)),
    "width 0.1% off": spike_fault(squeezed(1.001)),
    "sigmoid overflows": spike_fault(naive_sigmoid),
    "rectangle closed": spike_fault(closed_rectangle),
    "surrogate cut off": spike_fault(cut_off),
    "surrogate mirrored and shifted": spike_fault(lambda inner, x, xp: inner.derivative(x - 1e-6, xp)),
    "cotangent ignored": spike_fault(before=lambda given: {"cotangent": np.ones_like(given["x"])}),
    "spikes in the wrong dtype": spike_fault(after=lambda r, _: r._replace(spikes=r.spikes.astype(np.int64))),
    "spikes as bool": spike_fault(after=lambda r, _: r._replace(spikes=r.spikes > 0)),
    "spike gradient of another shape": spike_fault(after=lambda r, _: r._replace(grad_input=r.grad_input[None])),
    "spike gradient missing": spike_fault(after=lambda r, _: SpikeResult(r.spikes, None, r.dtype)),
    # neuron: values
    "> for >=, >= for >": spec_fault(lambda spec: {"inclusive": not spec.inclusive}),
    "always >": spec_fault(lambda spec: {"inclusive": False}),
    "reset a step late": spec_fault(lambda spec: {"reset_timing": "next"}),
    "soft reset for hard": spec_fault(lambda spec: {"reset": "soft" if spec.reset == "hard" else spec.reset}),
    "no reset": spec_fault(lambda spec: {"reset": "none"}),
    "output not delayed": spec_fault(lambda spec: {"output_delay": 0}),
    "rest ignored": spec_fault(lambda spec: {"rest": 0.0}),
    "reset value ignored": spec_fault(lambda spec: {"reset_value": 0.0}),
    "threshold ignored": spec_fault(lambda spec: {"threshold": 1.0}),
    "gain not complemented": spec_fault(
        lambda spec: {"input_gain": 1.0 if spec.input_gain == "complement" else spec.input_gain}
    ),
    "decay 0.01% off": spec_fault(lambda spec: {"decay": spec.decay * 0.9999}),
    "synapse 0.01% off": spec_fault(
        lambda spec: {"synaptic_decay": spec.synaptic_decay and spec.synaptic_decay * 0.9999}
    ),
    "learnt decay ignored": neuron_fault(
        before=lambda given: {"decay_logit": None if given["decay_logit"] is None else 0.0}
    ),
    "state left over": ("neuron", StaleState()),
    "state ignored": neuron_fault(
        before=lambda given: {"state": given["state"] and spec_of_parts(np.zeros_like, given["state"])}
    ),
    "one spike missing": result_fault(lambda r, given: {"output": flipped(r.output)}),
    "output a step early": result_fault(lambda r, given: {"output": np.roll(r.output, -1, axis=0)}),
    "output with the batch first": result_fault(lambda r, given: {"output": np.swapaxes(r.output, 0, 1)}),
    "final potential 1e-9 off": result_fault(
        lambda r, given: {"state": r.state._replace(potential=r.state.potential * (1 + 1e-9))}
    ),
    "states in single precision": result_fault(lambda r, given: {"state": spec_of_parts(in_single_precision, r.state)}),
    "final current missing": result_fault(lambda r, given: {"state": r.state._replace(current=None)}),
    "final state a plain tuple": result_fault(lambda r, given: {"state": tuple(r.state)}),
    "output in the wrong dtype": result_fault(lambda r, given: {"output": r.output.astype(np.float16)}),
    "dtype misreported": result_fault(lambda r, given: {"dtype": "float16"}),
    "output a list": result_fault(lambda r, given: {"output": r.output.tolist()}),
    "result a plain tuple": neuron_fault(after=lambda r, given: tuple(r)),
    "no result": neuron_fault(after=lambda r, given: None),
    # neuron: gradients
    "reset never detached": spec_fault(lambda spec: {"detach_reset": False}),
    "reset always detached": spec_fault(lambda spec: {"detach_reset": True}),
    "surrogate 0.1% off in time": neuron_fault(
        before=lambda given: {"spec": given["spec"].replace(surrogate=Altered(given["spec"].surrogate, slope(1.001)))}
    ),
    "first step dropped from the adjoint": result_fault(
        lambda r, given: {"grad_input": with_index(r.grad_input, 0, 0.0)}
    ),
    "last step dropped from the adjoint": result_fault(
        lambda r, given: {"grad_input": with_index(r.grad_input, -1, 0.0)}
    ),
    "gradients in single precision": result_fault(lambda r, given: {"grad_input": in_single_precision(r.grad_input)}),
    "gradient scaled by time": result_fault(lambda r, given: {"grad_input": r.grad_input * len(given["x"])}),
    "gradient of another sample": result_fault(lambda r, given: {"grad_input": r.grad_input[:, ::-1]}),
    "NaN in a gradient": result_fault(lambda r, given: {"grad_input": with_index(r.grad_input, (0, 0), np.nan)}),
    "infinity in a gradient": result_fault(lambda r, given: {"grad_input": with_index(r.grad_input, (0, 0), np.inf)}),
    "state's cotangent ignored": neuron_fault(
        before=lambda given: {"state_cotangent": spec_of_parts(np.zeros_like, given["state_cotangent"])}
    ),
    "output's cotangent ignored": neuron_fault(
        before=lambda given: {"output_cotangent": np.zeros_like(given["output_cotangent"])}
    ),
    "no gradient of the initial state": result_fault(lambda r, given: {"grad_state": LIFState(None)}),
    "a gradient of a fresh state": result_fault(
        lambda r, given: {"grad_state": r.grad_state if given["state"] else LIFState(np.zeros(given["x"].shape[1:]))}
    ),
    "gradients of the state swapped": result_fault(
        lambda r, given: {
            "grad_state": r.grad_state
            if r.grad_state.current is None
            else LIFState(r.grad_state.current, r.grad_state.potential, r.grad_state.spikes)
        }
    ),
    "no gradient of the decay": result_fault(lambda r, given: {"grad_decay_logit": None}),
    "gradient of the decay, not of its logit": result_fault(
        lambda r, given: {"grad_decay_logit": r.grad_decay_logit and r.grad_decay_logit / 0.24}
    ),
    "gradient of the decay 0.01% off": result_fault(
        lambda r, given: {"grad_decay_logit": r.grad_decay_logit and r.grad_decay_logit * 1.0001}
    ),
    # loss
    "mean of the branches": loss_fault(
        before=lambda given: {"coefficient": given["coefficient"] / max(len(given["branches"]), 1)}
    ),
    "compositions swapped": loss_fault(
        before=lambda given: {
            "spec": given["spec"].replace(combine="losses" if given["spec"].combine == "logits" else "logits")
        }
    ),
    "coefficient ignored": loss_fault(before=lambda given: {"coefficient": 1.0}),
    "branches skipped at 0": loss_fault(
        before=lambda given: {"branches": given["branches"] if given["coefficient"] else []}
    ),
    "last branch left out": loss_fault(
        after=lambda r, given: r._replace(grad_branches=(*r.grad_branches[:-1], *(g * 0 for g in r.grad_branches[-1:])))
    ),
    "gradients of the branches swapped": loss_fault(
        after=lambda r, given: r._replace(grad_branches=r.grad_branches[::-1])
    ),
    "sum over the batch": loss_fault(after=lambda r, given: r._replace(value=r.value * len(given["labels"]))),
    "gradient of the sum over the batch": loss_fault(
        after=lambda r, given: r._replace(grad_main=r.grad_main * len(given["labels"]))
    ),
    "coefficient missing in the branches' gradients": loss_fault(
        after=lambda r, given: r._replace(
            grad_branches=tuple(g / (given["coefficient"] or 1.0) for g in r.grad_branches)
        )
    ),
    "loss 1e-9 off": loss_fault(after=lambda r, given: r._replace(value=r.value * (1 + 1e-9))),
    "labels off by one": loss_fault(before=lambda given: {"labels": (given["labels"] + 1) % 4}),
    "loss an array": loss_fault(after=lambda r, given: r._replace(value=np.array([r.value]))),
    "gradients of the branches a list": loss_fault(
        after=lambda r, given: r._replace(grad_branches=list(r.grad_branches))
    ),
    "no loss": loss_fault(after=lambda r, given: LossResult(None, *r[1:])),
    # schedule
    "coefficient an iteration late": schedule_fault(lambda schedule, step: schedule(step - 1)),
    "coefficient an iteration early": schedule_fault(lambda schedule, step: schedule(step + 1)),
    "epochs ignored": schedule_fault(lambda schedule, step: schedule.replace(per="iteration")(step)),
    "epoch counted from its first step": schedule_fault(
        lambda schedule, step: schedule(step - (schedule.steps_per_epoch or 0) if schedule.per == "epoch" else step)
    ),
    "coefficient stuck": schedule_fault(lambda schedule, step: schedule(0)),
    "coefficient in half precision": schedule_fault(lambda schedule, step: float(np.float16(schedule(step)))),
    "total one too many": schedule_fault(
        lambda schedule, step: schedule.replace(total_steps=schedule.total_steps + 1)(step)
    ),
    "coefficient an array": schedule_fault(lambda schedule, step: np.array([schedule(step)])),
    "coefficient NaN past the end": schedule_fault(
        lambda schedule, step: schedule(step) if step <= schedule.total_steps else float("nan")
    ),
}


def run(level, backend):
    return run_backend(backend, Selection(levels=[level], dtypes=["float64", "float32"]))


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name):
    level, backend = FAULTS[name]
    # by what was compared, not by an error that the fault happens to raise somewhere
    assert any("raised" not in problem for outcome in run(level, backend) for problem in outcome.problems)


def test_the_reference_raises_no_alarm():
    outcomes = list(run_backend(ReferenceBackend()))
    assert len(outcomes) > 500
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert {outcome.level for outcome in outcomes} == {"surrogate", "neuron", "loss", "schedule"}


def test_a_fault_in_one_case_fails_that_case_alone():
    class Faulty(ReferenceBackend):
        def schedule(self, schedule: Schedule, step, *, mode):
            return super().schedule(schedule, step, mode=mode) + (step == 3 and schedule.kind == "cosine") * 1e-3

    failed = {outcome.case for outcome in run("schedule", Faulty()) if not outcome.passed}
    assert failed == {f"schedule-cosine-{length}" for length in ("iteration", "long", "epoch", "cut-epoch")}


def test_an_error_that_a_backend_raises_is_reported_and_the_run_goes_on():
    class Faulty(ReferenceBackend):
        def loss(self, main, branches, labels, coefficient, **given):
            if len(branches) == 2:
                raise KeyError("two branches")
            return super().loss(main, branches, labels, coefficient, **given)

    outcomes = list(run("loss", Faulty()))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    assert 0 < len(failed) < len(outcomes)
    assert all("raised KeyError: 'two branches'" in outcome.problems[0] for outcome in failed)
