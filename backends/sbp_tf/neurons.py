"""The canonical neuron over time, state in and state out."""

# mypy: allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from sbp_core import dynamics
from sbp_core.inputs import check_input, check_state
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_tf.spikes import spike

Step = Callable[[LIFState, tf.Tensor], tuple[tf.Tensor, LIFState]]


def initial_state(spec: LIFSpec, like: tf.Tensor) -> LIFState:
    """Return the state of a neuron that starts afresh: the potential at rest, no current, no spikes.

    Args:
        spec: the neuron.
        like: one step of its input, shape ``(batch, ...)``.

    Example:
        >>> import tensorflow as tf
        >>> initial_state(LIFSpec(rest=0.5), tf.ones((1, 2))).potential.numpy().tolist()
        [[0.5, 0.5]]
    """
    zero = tf.zeros_like(like)
    return LIFState(
        potential=zero + spec.rest,
        current=zero if spec.synaptic_decay is not None else None,
        spikes=zero if spec.stores_spikes else None,
    )


# nothing here branches on a tensor, and AutoGraph would make tracing several times slower
@tf.autograph.experimental.do_not_convert
def lif(
    x: tf.Tensor,
    spec: LIFSpec = LIFSpec(),  # noqa: B008
    state: LIFState | None = None,
    *,
    decay: tf.Tensor | None = None,
) -> tuple[tf.Tensor, LIFState]:
    """Run the neuron over ``x`` (equations: :class:`~sbp_core.LIFSpec`; Guo et al. 2024, Eq. 1-3).

    Runs eagerly, in ``tf.function`` and under XLA. The time loop is unrolled where the number of steps is known while
    tracing, and a ``tf.while_loop`` where it is not. Gradients and ``tf.vectorized_map``: see :func:`spike`.

    Args:
        x: the input, shape ``(time, batch, ...)``; float64, float32, bfloat16 or float16.
        spec: the neuron.
        state: where it starts, each part of the shape ``(batch, ...)`` and the dtype of ``x``; None for afresh.
        decay: takes the place of ``spec.decay``; a scalar, or a tensor that broadcasts to one step. A learnt decay is
            ``sigmoid(w)``.

    Returns:
        The output, of the shape and dtype of ``x``, and the last state.

    Raises:
        ValueError: a wrong shape, no time step, or a state or a decay that does not fit.
        TypeError: integers, or a state of another dtype.
        tf.errors.InvalidArgumentError: no time step, where that shows only at run time.

    Example:
        >>> import tensorflow as tf
        >>> spikes, state = lif(tf.constant([[0.75], [0.75], [0.75]]))
        >>> spikes.numpy().ravel().tolist(), state.potential.numpy().tolist()
        ([0.0, 1.0, 0.0], [0.75])
    """
    x = tf.convert_to_tensor(x)
    if x.shape.rank is None:
        raise ValueError("x must have a known rank, (time, batch, ...); set it with tf.ensure_shape")
    check_input(tuple(x.shape), x.dtype.name)
    if isinstance(state, LIFState):
        state = LIFState(*(None if part is None else tf.convert_to_tensor(part) for part in state))
    if state is not None:
        check_state(spec, state, tuple(x.shape[1:]), x.dtype.name)
    if decay is not None:
        decay = tf.cast(decay, x.dtype)
        _check_decay(decay, x.shape[1:])

    def fire(u: tf.Tensor) -> tf.Tensor:
        return spike(u, spec.surrogate, inclusive=spec.inclusive)

    def step(state: LIFState, x: tf.Tensor) -> tuple[tf.Tensor, LIFState]:
        return dynamics.step(spec, state, x, spike=fire, detach=tf.stop_gradient, decay=decay)

    if state is None:
        state = initial_state(spec, x[0])
    return _unrolled(step, state, x) if x.shape[0] is not None else _looped(step, state, x)


def _unrolled(step: Step, state: LIFState, x: tf.Tensor) -> tuple[tf.Tensor, LIFState]:
    outputs = []
    for now in tf.unstack(x):
        output, state = step(state, now)
        outputs.append(output)
    return tf.stack(outputs), state


def _looped(step: Step, state: LIFState, x: tf.Tensor) -> tuple[tf.Tensor, LIFState]:
    steps = tf.shape(x)[0]
    with tf.control_dependencies([tf.debugging.assert_positive(steps, "x must have at least one time step")]):
        steps = tf.identity(steps)
    held = [name for name, part in state._asdict().items() if part is not None]

    def body(t: tf.Tensor, outputs: tf.TensorArray, parts: list[tf.Tensor]) -> tuple[object, ...]:
        output, new = step(LIFState(**({"potential": None} | dict(zip(held, parts, strict=True)))), x[t])
        return t + 1, outputs.write(t, output), [getattr(new, name) for name in held]

    _, outputs, parts = tf.while_loop(
        lambda t, *_: t < steps,
        body,
        (0, tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:]), [getattr(state, name) for name in held]),
        maximum_iterations=steps,  # XLA needs the bound to differentiate the loop
    )
    return outputs.stack(), LIFState(**dict(zip(held, parts, strict=True)))


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
