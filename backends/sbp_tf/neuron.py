"""The canonical neuron over time, state in and state out."""

# mypy: allow-untyped-decorators
from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf

from sbp_core import dynamics
from sbp_core.inputs import check_input, check_neuron, check_state
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.validation import choice
from sbp_tf.spike import spike

Implementation = Literal["auto", "unrolled", "loop"]

# Measured on a CPU (benchmarks/neuron_tf.py): XLA fuses up to 5 steps into one pass over memory; from 6 on its fusion
# computes the earlier steps again for each later one, and 256 steps unrolled take 15 s to trace.
UNROLL_UP_TO = 5


def initial_state(spec: LIFSpec, like: tf.Tensor, potential: tf.Tensor | None = None) -> LIFState:
    """Return the state of a neuron that starts afresh: the potential that the spec says, the other parts 0.

    Args:
        spec: the neuron.
        like: one step of its input, shape ``(batch, ...)``.
        potential: takes the place of the spec's, as a learnt one does: a scalar, or a tensor that broadcasts.

    Example:
        >>> import tensorflow as tf
        >>> initial_state(LIFSpec(rest=0.5), tf.ones((1, 2))).potential.numpy().tolist()
        [[0.5, 0.5]]
    """
    zero = tf.zeros_like(like)
    start = spec.start if potential is None else spec.start | {"potential": tf.cast(potential, like.dtype)}
    return LIFState(**{name: zero + value for name, value in start.items()})


# nothing here branches on a tensor, and AutoGraph would make tracing several times slower
@tf.autograph.experimental.do_not_convert
def lif(
    x: tf.Tensor,
    spec: LIFSpec = LIFSpec(),  # noqa: B008
    state: LIFState | None = None,
    *,
    decay: tf.Tensor | None = None,
    implementation: Implementation = "auto",
    time_axis: Literal[0, 1] = 0,
) -> tuple[tf.Tensor, LIFState]:
    """Run the neuron over ``x`` (equations: :class:`~sbp_core.LIFSpec`; Guo et al. 2024, Eq. 1-3).

    Runs eagerly, in ``tf.function`` and under XLA. Gradients and ``tf.vectorized_map``: see :func:`spike`.

    Args:
        x: the input, shape ``(time, batch, ...)``; float64, float32, bfloat16 or float16.
        spec: the neuron.
        state: where it starts, each part of the shape ``(batch, ...)`` and the dtype of ``x``; None for afresh.
        decay: takes the place of ``spec.decay``; a scalar, or a tensor that broadcasts to one step. A learnt decay is
            ``sigmoid(w)``.
        implementation: "unrolled" lays the steps out one after the other; "loop" is a ``tf.while_loop``, and one for
            the adjoint, which keeps the input alone and computes the states again; "auto" unrolls in eager mode, and in
            a graph up to ``UNROLL_UP_TO`` steps if their number is known. They give the same results.
        time_axis: 1 where ``x``, and so the output, is ``(batch, time, ...)``.

    Returns:
        The output, of the shape and dtype of ``x``, and the last state.

    Raises:
        ValueError: a wrong shape, no time step, a state or a decay that does not fit, an unknown implementation or time
            axis, or "unrolled" for a number of steps that is not known.
        TypeError: integers, or a state of another dtype.
        tf.errors.InvalidArgumentError: no time step, where that shows only at run time.

    Example:
        >>> import tensorflow as tf
        >>> spikes, state = lif(tf.constant([[0.75], [0.75], [0.75]]))
        >>> spikes.numpy().ravel().tolist(), state.potential.numpy().tolist()
        ([0.0, 1.0, 0.0], [0.75])
    """
    check_neuron(spec, decay)
    x = tf.convert_to_tensor(x)
    if x.shape.rank is None:
        raise ValueError("x must have a known rank, (time, batch, ...); set it with tf.ensure_shape")
    check_input(tuple(x.shape), x.dtype.name, time_axis=time_axis)
    first = x[0] if time_axis == 0 else x[:, 0]
    if isinstance(state, LIFState):
        state = LIFState(*(None if part is None else tf.convert_to_tensor(part) for part in state))
    if state is not None:
        check_state(spec, state, tuple(first.shape), x.dtype.name)
    if decay is not None:
        decay = tf.cast(decay, x.dtype)
        _check_decay(decay, first.shape)

    if state is None:
        state = initial_state(spec, first)
    if _chosen(x.shape[time_axis], implementation, x.shape) == "unrolled":
        # XLA fuses steps that are sliced where they lie; batch and time swapped cost two passes over memory more
        return _unrolled(spec, state, x, decay, time_axis)
    if time_axis == 0:
        return _looped(spec, state, x, decay)
    output, state = _looped(spec, state, _swapped(x), decay)
    return _swapped(output), state


def implementation_for(x: tf.Tensor, implementation: Implementation = "auto") -> Literal["unrolled", "loop"]:
    """Return what :func:`lif` runs on an input here, eagerly or in the graph that is being traced.

    Raises:
        ValueError: an unknown implementation, or "unrolled" for a number of steps that is not known.

    Example:
        >>> import tensorflow as tf
        >>> implementation_for(tf.ones((4, 2)))
        'unrolled'
    """
    return _chosen(x.shape[0], implementation, x.shape)


def _chosen(steps: int | None, implementation: Implementation, shape: tf.TensorShape) -> Literal["unrolled", "loop"]:
    choice("implementation", implementation, ("auto", "unrolled", "loop"))
    if implementation == "unrolled" and steps is None:
        raise ValueError(f"implementation 'unrolled' needs a known number of time steps, got shape {tuple(shape)}")
    if implementation == "auto":
        return "unrolled" if steps is not None and (tf.executing_eagerly() or steps <= UNROLL_UP_TO) else "loop"
    return implementation


def _step(spec: LIFSpec, state: LIFState, x: tf.Tensor, decay: tf.Tensor | None) -> tuple[tf.Tensor, LIFState]:
    def fire(u: tf.Tensor) -> tf.Tensor:
        return spike(u, spec.surrogate, inclusive=spec.inclusive)

    return dynamics.step(spec, state, x, spike=fire, detach=tf.stop_gradient, sigmoid=tf.sigmoid, decay=decay)


def _unrolled(
    spec: LIFSpec, state: LIFState, x: tf.Tensor, decay: tf.Tensor | None, time_axis: int
) -> tuple[tf.Tensor, LIFState]:
    outputs = []
    for now in tf.unstack(x, axis=time_axis):
        output, state = _step(spec, state, now, decay)
        outputs.append(output)
    return tf.stack(outputs, axis=time_axis), state


def _swapped(x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _looped(spec: LIFSpec, state: LIFState, x: tf.Tensor, decay: tf.Tensor | None) -> tuple[tf.Tensor, LIFState]:
    """Run two loops with an adjoint of their own: TensorFlow's would stack every intermediate of every step."""
    names, steps = spec.state_parts, _count(x)
    learnt = () if decay is None else (decay,)

    def step(parts: Any, now: tf.Tensor, learnt: Any) -> list[tf.Tensor]:
        state = LIFState(**dict(zip(names, parts, strict=True)))
        output, new = _step(spec, state, now, *learnt or (None,))
        return [output, *(getattr(new, name) for name in names)]

    def array() -> tf.TensorArray:
        return tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:])

    @tf.custom_gradient
    def run(x: tf.Tensor, *given: tf.Tensor) -> Any:
        start, learnt = list(given[: len(names)]), given[len(names) :]

        def forward(t: tf.Tensor, outputs: tf.TensorArray, parts: Any) -> Any:
            output, *new = step(parts, x[t], learnt)
            return t + 1, outputs.write(t, output), new

        _, outputs, last = _while(lambda t, *_: t < steps, forward, (0, array(), start), steps)

        def adjoint(output_cotangent: tf.Tensor, *last_cotangents: tf.Tensor) -> list[tf.Tensor]:
            def record(t: tf.Tensor, tape: Any, parts: Any) -> Any:
                kept = [states.write(t, part) for states, part in zip(tape, parts, strict=True)]
                return t + 1, kept, step(parts, x[t], learnt)[1:]

            _, tape, _ = _while(lambda t, *_: t < steps, record, (0, [array() for _ in names], start), steps)
            states = [part.stack() for part in tape]

            def back(t: tf.Tensor, gradients: tf.TensorArray, cotangents: Any, sums: Any) -> Any:
                sources = [x[t], *(part[t] for part in states), *learnt]
                with tf.GradientTape(watch_accessed_variables=False) as one:
                    one.watch(sources)
                    now, *parts = sources[: 1 + len(names)]
                    targets = step(parts, now, sources[1 + len(names) :])
                weights = [output_cotangent[t], *cotangents]
                found = one.gradient(targets, sources, weights, unconnected_gradients="zero")
                added = [total + more for total, more in zip(sums, found[1 + len(names) :], strict=True)]
                return t - 1, gradients.write(t, found[0]), found[1 : 1 + len(names)], added

            zeros = [tf.zeros_like(value) for value in learnt]
            begin = (steps - 1, array(), list(last_cotangents), zeros)
            _, gradients, cotangents, sums = _while(lambda t, *_: t >= 0, back, begin, steps)
            return [gradients.stack(), *cotangents, *sums]

        return [outputs.stack(), *last], adjoint

    output, *last = run(x, *(getattr(state, name) for name in names), *learnt)
    return output, LIFState(**dict(zip(names, last, strict=True)))


def _while(condition: Any, body: Any, start: Any, steps: Any) -> Any:
    # XLA needs the bound to differentiate a loop
    return tf.while_loop(condition, body, start, maximum_iterations=steps)


def _count(x: tf.Tensor) -> Any:
    if x.shape[0] is not None:
        return x.shape[0]
    steps = tf.shape(x)[0]
    with tf.control_dependencies([tf.debugging.assert_positive(steps, "x must have at least one time step")]):
        return tf.identity(steps)


def _check_decay(decay: tf.Tensor, step_shape: tf.TensorShape) -> None:
    if decay.shape.rank is None or not step_shape.is_fully_defined() or not decay.shape.is_fully_defined():
        return
    trailing = tuple(step_shape)[len(step_shape) - decay.shape.rank :]
    if decay.shape.rank > len(step_shape) or any(
        size not in (1, wanted) for size, wanted in zip(decay.shape, trailing, strict=True)
    ):
        raise ValueError(
            f"decay must broadcast to one step of x, shape {tuple(step_shape)}; got shape {tuple(decay.shape)}"
        )
