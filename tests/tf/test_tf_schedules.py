"""A schedule takes a TensorFlow step, eager or traced, and gives what it gives for a Python number."""

import pytest
import tensorflow as tf

from sbp_core import Constant, Cosine, Evolutionary, ExponentialSchedule, Step

SCHEDULES = [
    Constant(value=0.5, total_steps=10),
    Evolutionary(total_steps=10),
    Cosine(total_steps=10),
    ExponentialSchedule(total_steps=10),
    Step(total_steps=10),
]


@pytest.mark.parametrize("per", ["iteration", "epoch"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)
def test_a_tensor_step_gives_what_a_number_gives(schedule, per):
    schedule = schedule.replace(per=per, steps_per_epoch=4)
    traced = tf.function(schedule)
    for dtype in (tf.int32, tf.int64, tf.float32):
        for step in (-1, 0, 1, 4, 5, 8, 10, 25):
            for call in (schedule, traced):
                found = call(tf.constant(step, dtype))
                assert found.dtype == tf.float32
                assert float(found) == pytest.approx(schedule(step), rel=1e-6, abs=1e-8), (dtype, step)
    assert traced.experimental_get_tracing_count() == 3


def test_a_variable_is_a_step_and_double_precision_stays():
    schedule = Evolutionary(total_steps=10)
    assert float(schedule(tf.Variable(5, dtype=tf.int64))) == 0.125
    assert schedule(tf.constant(5.0, tf.float64)).dtype == tf.float64


def test_xla_compiles_a_schedule():
    compiled = tf.function(Cosine(total_steps=10), jit_compile=True)
    assert float(compiled(tf.constant(3))) == pytest.approx(Cosine(total_steps=10)(3), rel=1e-6)
