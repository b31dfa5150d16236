"""The one harness: an engine's native arrays and gradients become the contract's NumPy, for every adapter.

Here are cotangents, states by name, samples mapped one by one, time and channels where the engine has them; in an
engine is what only its framework knows (:class:`sbp_core.backend.Engine`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

import numpy as np

from sbp_core.backend import (
    DECLARATIONS,
    PARTS,
    Array,
    Backend,
    Batch,
    BuildsNetworks,
    ComposesLosses,
    Declared,
    Engine,
    FiresSpikes,
    LossResult,
    Mode,
    MomentumSGD,
    NetworkResult,
    NeuronResult,
    RunsFunctions,
    RunsNeurons,
    ShortcutNetwork,
    SpikeResult,
    TrainingResult,
)
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate
from sbp_core.taps import TapLayout

#: What an engine defines, and the members of the contract that follow from it.
_FOLLOWS: dict[type, tuple[str, ...]] = {
    FiresSpikes: ("spike",),
    RunsNeurons: ("neuron",),
    ComposesLosses: ("loss",),
    RunsFunctions: ("schedule",),
    BuildsNetworks: ("network", "training"),
}
# two letters swapped in a short name are as near as that
_NEAR = 0.8
_OF_EVERY_ENGINE = ("array", "numpy", "vjp")
_OF_ENGINES = (*_OF_EVERY_ENGINE, "spike", "neuron", "loss", "run", "network", "layout", "precision")


def as_backend(found: Declared) -> Backend:
    """Return ``found`` if it is a backend, and the backend of an engine.

    Raises:
        TypeError: it offers nothing, or lacks a member and has another nearly of its name.

    Example:
        >>> from sbp_core.reference.backend import make_backend
        >>> as_backend(make_backend()).name
        'reference'
    """
    refuse_misspelt(found)
    backend = Harness(found) if isinstance(found, Engine) else found
    if not any(callable(getattr(backend, part, None)) for part in PARTS):
        wanted = "spike, neuron, loss, run or network" if isinstance(found, Engine) else ", ".join(PARTS)
        raise TypeError(f"it offers nothing: it has no {wanted}; see sbp_core.backend")
    return cast(Backend, backend)


def refuse_misspelt(found: Declared) -> None:
    """Refuse a backend or an engine that seems to have meant a member that it lacks: most may be left out.

    Raises:
        TypeError: it has no ``neuron``, but ``nueron``.
    """
    is_engine = any(hasattr(found, member) for member in _OF_EVERY_ENGINE)
    members = _OF_ENGINES if is_engine else PARTS
    public = [name for name in dir(found) if not name.startswith("_") and name not in (*members, *DECLARATIONS)]
    told = [
        f"it has {near[0]!r} and no {member!r}: is that meant? A name of its own may begin with an underscore"
        for member in members
        if not hasattr(found, member) and (near := get_close_matches(member, public, n=1, cutoff=_NEAR))
    ]
    if told:
        raise TypeError("; ".join(told))


class Harness:
    """The backend of an engine; it has the members that the engine offers, and None for the others.

    Args:
        engine: the engine.

    Raises:
        TypeError: the engine's layout is none.
    """

    def __init__(self, engine: Engine) -> None:
        self.name, self.versions = engine.name, engine.versions
        self.modes, self.dtypes = engine.modes, engine.dtypes
        self._engine: Any = engine
        self._layout: TapLayout = getattr(engine, "layout", TapLayout())
        if not isinstance(self._layout, TapLayout) or self._layout.time_axis not in (0, 1):
            raise TypeError(f"layout must be a TapLayout with time_axis 0 or 1, got {self._layout!r}")
        self._precision: Callable[[str], contextlib.AbstractContextManager[Any]] = getattr(
            engine, "precision", lambda dtype: contextlib.nullcontext()
        )
        for offers, parts in _FOLLOWS.items():
            for part in parts:
                setattr(self, part, getattr(self, f"_{part}") if isinstance(engine, offers) else None)

    def _spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        with self._precision(dtype):
            (spikes,), (gradient,) = self._vjp(
                lambda x: [self._engine.spike(x, surrogate, inclusive=inclusive)], [x], [cotangent], dtype, mode
            )
            return SpikeResult(self._numpy(spikes), self._numpy(gradient), _dtype(spikes))

    def _neuron(
        self,
        spec: LIFSpec,
        x: Array,
        state: LIFState | None,
        output_cotangent: Array,
        state_cotangent: LIFState,
        *,
        decay_logit: float | None,
        dtype: str,
        mode: Mode,
    ) -> NeuronResult:
        names = _parts(state_cotangent)
        start = [] if state is None else [getattr(state, name) for name in names]
        # a decay that the samples share is one for each where they are mapped: its gradients add up
        samples = mode == "vmapped"
        logits = [] if decay_logit is None else [np.full(x.shape[1:2] if samples else (), decay_logit)]

        def run(x: Any, *others: Any) -> list[Any]:
            given = LIFState(**dict(zip(names, others, strict=False))) if start else None
            output, final = neuron(x, given, others[-1] if logits else None)
            if _parts(final) != names:
                raise ValueError(f"neuron must return the state's parts {names}, got {_parts(final)}")
            return [output, *(getattr(final, name) for name in names)]

        def enter(array: Array) -> Array:  # (time, batch, ...)
            return self._turned(_apart(array, 1) if samples else array, mode)

        def leave(array: Any) -> Array:
            values = self._turned(self._numpy(array), mode)
            return _together(values, 1) if samples else values

        def enter_part(array: Array) -> Array:  # (batch, ...)
            return _apart(array, 0) if samples else array

        def leave_part(array: Any) -> Array:
            return _together(self._numpy(array), 0) if samples else self._numpy(array)

        with self._precision(dtype):
            neuron = self._engine.neuron(spec, dtype)
            (output, *final), (of_input, *gradients) = self._vjp(
                run,
                [enter(x), *map(enter_part, start), *logits],
                [enter(output_cotangent), *(enter_part(getattr(state_cotangent, name)) for name in names)],
                dtype,
                mode,
            )
            return NeuronResult(
                leave(output),
                _state(names, map(leave_part, final)),
                leave(of_input),
                _state(names, map(leave_part, gradients[: len(start)])),
                float(np.sum(self._numpy(gradients[-1]))) if logits else None,
                _dtype(output),
            )

    def _loss(
        self,
        main: Array,
        branches: Sequence[Array],
        labels: Array,
        coefficient: float,
        *,
        spec: LossSpec,
        dtype: str,
        mode: Mode,
    ) -> LossResult:
        with self._precision(dtype):
            targets = self._labels(labels, dtype)

            def run(main: Any, *others: Any) -> list[Any]:
                *branches, coefficient = others
                return [self._engine.loss(spec, ShortcutOutput(main, tuple(branches)), targets, coefficient)]

            def turned(logits: Array) -> Array:
                return self._turned(logits, mode) if spec.timed else logits

            inputs = [*map(turned, (main, *branches)), np.asarray(coefficient)]
            (value,), (*gradients, _) = self._vjp(run, inputs, [np.ones(())], dtype, mode)
            of_main, *of_branches = (turned(self._numpy(gradient)) for gradient in gradients)
            return LossResult(float(self._numpy(value)), of_main, tuple(of_branches), _dtype(value))

    def _schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        # a lambda: frameworks keep what they compiled by the function, and a schedule equals another of its numbers
        run = self._engine.run(lambda step: schedule(step), mode)
        return float(self._numpy(run(self._engine.array(np.asarray(step), None))))

    def _network(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batch: Batch,
        coefficient: float,
        *,
        dtype: str,
        mode: Mode,
    ) -> NetworkResult:
        with self._precision(dtype):
            images, labels = self._batch(batch, dtype)
            built = self._engine.network(network, weights, images, dtype, mode)
            loss, logits = built.differentiate(images, labels, coefficient)
            evaluated = built.evaluate(images)
            statistics = {name: array for name, array in built.weights().items() if ".running_" in name}
            # the step has moved where neurons start
            fresh = any(name.endswith(".running_potential") for name in statistics)
            other = self._engine.network(network, weights, images, dtype, mode) if fresh else built
            blocks = other.blocks(images)
            return NetworkResult(
                tuple(map(self._numpy, logits)),
                float(self._numpy(loss)),
                {name: array for name, array in built.gradients().items() if name not in statistics},
                statistics,
                self._numpy(evaluated),
                {name: self._part(output) for name, output in blocks.items()},
                _dtype(logits[0]),
            )

    def _training(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batches: Sequence[Batch],
        schedule: Schedule,
        optimizer: MomentumSGD,
        *,
        dtype: str,
        mode: Mode,
    ) -> TrainingResult:
        with self._precision(dtype):
            given = [self._batch(batch, dtype) for batch in batches]
            built = self._engine.network(network, weights, given[0][0], dtype, mode)
            train = built.trainer(schedule, optimizer)
            steps = [train(images, labels) for images, labels in given]
            losses = tuple(float(self._numpy(loss)) for loss, _ in steps)
            return TrainingResult(losses, dict(built.weights()), _dtype(steps[-1][1][0]))

    def _batch(self, batch: Batch, dtype: str) -> tuple[Any, Any]:
        images = batch.images
        if self._layout.channels == "last":
            images = np.moveaxis(images, -3, -1)
        if images.ndim == 5:  # event frames
            images = self._turned(images, "eager")
        return self._engine.array(images, dtype), self._labels(batch.labels, dtype)

    def _part(self, output: Any) -> Array:
        """Return ``(time, batch, channels, *space)``, of any number of axes of space."""
        values = self._numpy(output)
        return values.transpose(self._layout.axes(values.ndim).time_first)

    def _labels(self, labels: Array, dtype: str) -> Any:
        return self._engine.array(labels, dtype if labels.dtype.kind == "f" else None)

    def _vjp(
        self,
        function: Callable[..., list[Any]],
        inputs: Sequence[Array],
        cotangents: Sequence[Array],
        dtype: str,
        mode: Mode,
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        given, weights = ([self._engine.array(array, dtype) for array in arrays] for arrays in (inputs, cotangents))
        outputs, gradients = self._engine.vjp(function, given, weights, mode)
        return outputs, gradients

    def _numpy(self, array: Any) -> Array:
        values = np.asarray(self._engine.numpy(array))
        # NumPy has no bfloat16 of its own
        return values.astype(np.float64) if _dtype(array) == "bfloat16" else values

    def _turned(self, array: Array, mode: Mode) -> Array:
        """Swap time and batch where the engine has time second; each sample by itself where they are mapped."""
        first = 1 if mode == "vmapped" else 0
        return np.swapaxes(array, first, first + 1) if self._layout.time_axis == 1 else array


def _dtype(array: Any) -> str:
    """Return the name of a native dtype: 'float32', whether it calls itself that, 'torch.float32' or by attribute."""
    dtype = getattr(array.dtype, "name", array.dtype)
    return str(dtype).rpartition(".")[2]


def _parts(state: LIFState) -> list[str]:
    return [name for name, part in state._asdict().items() if part is not None]


def _state(names: Sequence[str], parts: Iterable[Array]) -> LIFState:
    return LIFState(**({"potential": None} | dict(zip(names, parts, strict=False))))


def _apart(array: Array, axis: int) -> Array:
    """Put the samples' axis first, and leave a batch of one in its place."""
    return np.expand_dims(np.moveaxis(array, axis, 0), axis + 1)


def _together(array: Array, axis: int) -> Array:
    return np.moveaxis(np.squeeze(array, axis + 1), 0, axis)
