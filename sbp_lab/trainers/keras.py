"""The Keras trainer, on whichever framework Keras is set to: ``ShortcutModel``, ``compile`` and ``train_on_batch``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops

import sbp_keras
from sbp_core import NetworkSpec
from sbp_core.reference.networks import initial_weights
from sbp_core.signal import Diagnosis
from sbp_core.weights import to_canonical
from sbp_keras.networks import layer_names
from sbp_keras.weights import variables
from sbp_lab.trainers import Array, Labels, Network, StepResult, TrainerOptions, finite
from sbp_lab.trainers import state as states
from sbp_lab.trainers.options import FIRST_SCALE, SCALE_GROWS_AFTER
from sbp_lab.trainers.rules import Gradients, rule

#: Backend of Keras to the trainer that knows its devices.
NATIVE = {"jax": "jax", "tensorflow": "tf", "torch": "torch"}

_POLICIES = {"float32": None, "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


class KerasTrainer:
    """See :class:`sbp_lab.trainers.Trainer`."""

    def __init__(self, network: Network, weights: Mapping[str, Array] | None, options: TrainerOptions) -> None:
        if options.precision == "float16" and options.accumulate > 1:
            raise ValueError(
                f"accumulate must be 1 with precision='float16' in Keras, whose loss scaling may skip a part of a "
                f"batch; got {options.accumulate}"
            )
        if keras.backend.backend() == "tensorflow" and _in_a_strategy():
            raise ValueError(
                "a distribution strategy of TensorFlow must not be active, its replicas would clip and measure parts "
                "of the gradient: train on one device, or run Keras on JAX with keras.distribution.DataParallel"
            )
        self._options = options
        self._net, self.spec = _build(network, options)
        self._model: keras.Model = self._net
        if options.taps:
            self._model = sbp_keras.ShortcutModel(
                self._net, list(options.taps), network.num_classes, branch=options.branch, loss_spec=options.loss
            )
        if weights is None and self.spec is not None:
            weights = initial_weights(self.spec, options.seed, options.taps, options.branch)
        if weights is not None:
            sbp_keras.import_weights(self._model, weights)
        self._variables = _by_name(self._model, self._net)
        trained = self._model.trainable_variables
        names = {id(variable): name for name, variable in self._variables.items()}
        self._trained = [names[id(variable)] for variable in trained]
        kernels = [
            at for at, v in enumerate(trained) if v.name == "kernel" and self._trained[at].startswith("weights/")
        ]
        # forward order: a stem first, a head last
        order = list(self._variables)
        kernels.sort(key=lambda at: order.index(self._trained[at]))
        self._rule = rule(options.optimizer, (kernels[0], kernels[-1]), options.clip_norm, options.accumulate)
        self._rule.build(trained)
        self._optimizer: Any = self._rule
        if options.precision == "float16":
            self._optimizer = keras.optimizers.LossScaleOptimizer(
                self._rule, initial_scale=FIRST_SCALE, dynamic_growth_steps=SCALE_GROWS_AFTER
            )
            self._optimizer.build(trained)
        self._soft: bool | None = None
        self._diagnose: dict[bool, sbp_keras.Diagnoser] = {}
        self._mean = {}
        if options.ema is not None:
            self._mean = {name: ops.copy(ops.convert_to_tensor(v)) for name, v in self._variables.items()}
        self._seeds = [variable for variable in self._model.variables if variable.name == "seed_generator_state"]

    def train_step(
        self, images: Array, labels: Labels, coefficient: float, learning_rate: float, step: int
    ) -> StepResult:
        """Make one step on a batch."""
        self._compile(labels)
        self._rule.learning_rate = learning_rate
        before = float(ops.convert_to_numpy(self._rule.taken))
        loss, right = self._batch(images, labels, coefficient, step)
        norm, first, last = (float(ops.convert_to_numpy(value)) for value in self._rule.norms)
        half = self._options.precision == "float16"
        skipped = half and bool(np.isfinite(loss)) and float(ops.convert_to_numpy(self._rule.taken)) == before
        if skipped:
            # what was measured last is of an earlier step
            norm = first = last = float("inf")
        result = StepResult(loss, first, last, norm, right, skipped)
        scale = float(ops.convert_to_numpy(self._optimizer.dynamic_scale)) if half else 1.0
        if not np.isfinite(loss) or (not np.isfinite(norm) and (not skipped or scale < 1.0)):
            raise self._not_finite(result, images, labels, coefficient, step)
        if self._mean and not skipped:
            rest = 1.0 - (self._options.ema or 0.0)
            for name, variable in self._variables.items():
                mean = self._mean[name]
                self._mean[name] = mean + rest * (ops.convert_to_tensor(variable) - mean)
        return result

    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        logits: Array = self._averaged(lambda: np.asarray(self._net.predict_on_batch(images), np.float32))
        return logits.mean(1) if logits.ndim == 3 else logits

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        found = self._gradients(images, labels, coefficient, 1)
        return {name.removeprefix("weights/"): array for name, array in found.items() if name.startswith("weights/")}

    def firing_rates(self, images: Array) -> dict[str, float]:
        """Return spikes per neuron and step."""
        layers = [
            layer for layer in self._net.layers if isinstance(layer, sbp_keras.LIF) and layer.spec.output == "spikes"
        ]
        if not layers:
            return {}
        paths = {layer.name: layer.name for layer in layers}
        if self.spec is not None:
            paths = {name: path for path, name in layer_names(self.spec).items()}
        seen = keras.Model(self._net.inputs, [keras.tree.flatten(layer.output)[0] for layer in layers])
        given = self._averaged(lambda: seen(ops.convert_to_tensor(images), training=False))
        given = given if isinstance(given, list | tuple) else [given]
        return {
            paths[layer.name]: float(ops.convert_to_numpy(ops.mean(ops.cast(x, "float32"))))
            for layer, x in zip(layers, given, strict=True)
        }

    def diagnose(
        self, batches: Sequence[tuple[Array, Labels]], coefficient: float, *, branches: bool = True
    ) -> Diagnosis:
        """Return the doctor's figures."""
        model = self._model if branches else self._net
        if isinstance(model, sbp_keras.ShortcutModel):
            model.coefficient.assign(coefficient)
        if branches not in self._diagnose:
            self._diagnose[branches] = sbp_keras.Diagnoser()
        return self._diagnose[branches](model, batches)

    def weights(self) -> dict[str, Array]:
        """Return the main network's weights."""
        return states.main_weights(self.state())

    def state(self) -> states.Arrays:
        """Return all that training goes on from."""
        found = {name: _array(variable) for name, variable in self._variables.items()}
        for slot in states.slots(self._options.optimizer):
            for name, held in zip(self._trained, self._rule.slots[slot], strict=True):
                found[f"optimizer/{slot}/{name}"] = _array(held)
        found[states.STEP] = np.asarray(int(ops.convert_to_numpy(self._rule.taken)))
        found |= {f"ema/{name}": _array(mean) for name, mean in self._mean.items()}
        if self._options.precision == "float16":
            found[states.SCALE] = np.asarray(ops.convert_to_numpy(self._optimizer.dynamic_scale), np.float32)
            found[states.GOOD_STEPS] = np.asarray(int(ops.convert_to_numpy(self._optimizer.step_counter)))
        return found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        arrays = states.checked({name: array.shape for name, array in self.state().items()}, state)
        for name, variable in self._variables.items():
            _assign(variable, arrays[name])
        for slot in states.slots(self._options.optimizer):
            for name, held in zip(self._trained, self._rule.slots[slot], strict=True):
                _assign(held, arrays[f"optimizer/{slot}/{name}"])
        self._rule.taken.assign(int(arrays[states.STEP]))
        self._mean = {name: ops.convert_to_tensor(_native(arrays[f"ema/{name}"])) for name in self._mean}
        if self._options.precision == "float16":
            self._optimizer.dynamic_scale.assign(float(arrays[states.SCALE]))
            self._optimizer.step_counter.assign(int(arrays[states.GOOD_STEPS]))

    def _compile(self, labels: Labels, optimizer: Any = None) -> None:
        soft = labels.ndim == 2
        if optimizer is None and soft == self._soft:
            return
        loss: Any
        if isinstance(self._model, sbp_keras.ShortcutModel):
            kinds = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
            loss = kinds[soft](from_logits=True)
        else:
            composed = sbp_keras.ShortcutLoss(self._options.loss)

            def loss(y: Any, logits: Any) -> Any:
                # Keras makes labels floating
                y = y if soft else ops.cast(ops.reshape(y, (-1,)), "int32")
                return composed(sbp_keras.ShortcutOutput(ops.cast(logits, "float32"), ()), y, 0.0)

        # XLA takes minutes to compile a deep network for a processor; JAX has no other way to compile
        self._model.compile(
            optimizer or self._optimizer,
            loss,
            metrics=[_Right()],
            jit_compile=self._options.compile or keras.backend.backend() == "jax",
            auto_scale_loss=False,
        )
        self._soft = None if optimizer is not None else soft

    def _batch(self, images: Array, labels: Labels, coefficient: float, step: int) -> tuple[float, float]:
        """Train on the parts of a batch, and return loss and accuracy."""
        if isinstance(self._model, sbp_keras.ShortcutModel):
            self._model.coefficient.assign(coefficient)
        size = self._options.parts(len(labels))
        loss = right = 0.0
        for place, start in enumerate(range(0, len(labels), size)):
            for at, seed in enumerate(self._seeds):
                words = np.random.SeedSequence([self._options.seed, step, place, at]).generate_state(2)
                # TensorFlow takes signed ones
                seed.assign((words >> 1).astype(seed.dtype))
            # what Keras reports is a mean since the last reset
            self._model.reset_metrics()
            part = slice(start, start + size)
            logs = self._model.train_on_batch(images[part], labels[part], return_dict=True)
            loss += float(logs["loss"]) / self._options.accumulate
            right += float(logs["right"]) / self._options.accumulate
        return loss, right

    def _gradients(self, images: Array, labels: Labels, coefficient: float, step: int) -> states.Arrays:
        before = {name: _array(variable) for name, variable in self._variables.items()}
        self._compile(labels, Gradients())
        total: states.Arrays = {}
        size = self._options.parts(len(labels))
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            parts = self._options.accumulate
            self._one(images[part], labels[part], coefficient, step)
            for name in self._trained:
                gradient = _array(self._variables[name]) / parts
                total[name] = total[name] + gradient if name in total else gradient
            for name, variable in self._variables.items():
                _assign(variable, before[name])
        order = [name for name in self._variables if name in total]
        return {name: total[name] for name in order}

    def _one(self, images: Array, labels: Labels, coefficient: float, step: int) -> None:
        if isinstance(self._model, sbp_keras.ShortcutModel):
            self._model.coefficient.assign(coefficient)
        self._model.reset_metrics()
        self._model.train_on_batch(images, labels)

    def _averaged(self, compute: Callable[[], Any]) -> Any:
        """Compute with the running mean in the place of the weights."""
        if not self._mean:
            return compute()
        before = {name: ops.copy(ops.convert_to_tensor(variable)) for name, variable in self._variables.items()}
        try:
            for name, variable in self._variables.items():
                variable.assign(self._mean[name])
            return compute()
        finally:
            for name, variable in self._variables.items():
                variable.assign(before[name])

    def _not_finite(
        self, result: StepResult, images: Array, labels: Labels, coefficient: float, step: int
    ) -> finite.NotFiniteError:
        what, value = ("gradient", result.gradient) if np.isfinite(result.loss) else ("loss", result.loss)
        paths = {} if self.spec is None else {name: path for path, name in layer_names(self.spec).items()}
        layers = [layer for layer in self._net.layers if not isinstance(layer, keras.layers.InputLayer)]
        seen = keras.Model(self._net.inputs, [keras.tree.flatten(layer.output)[0] for layer in layers])
        given = seen(ops.convert_to_tensor(images), training=True)
        given = given if isinstance(given, list | tuple) else [given]
        return finite.describe(
            what,
            value,
            step,
            images=images,
            weights={name: _array(self._variables[name]) for name in self._variables if name in self._trained},
            outputs=[
                (paths.get(layer.name, layer.name), np.asarray(ops.convert_to_numpy(ops.cast(x, "float32"))))
                for layer, x in zip(layers, given, strict=True)
            ],
            gradients=self._gradients(images, labels, coefficient, step),
        )


class _Right(keras.metrics.Metric):  # type: ignore[misc]
    """Share of samples that the composed output gets right."""

    def __init__(self) -> None:
        super().__init__(name="right")
        self._hits = self.add_weight(name="hits", initializer="zeros")
        self._count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count."""
        if len(y_pred.shape) == 3:
            y_pred = ops.mean(y_pred, axis=1)
        soft = len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1] and y_pred.shape[-1] != 1
        classes = ops.argmax(y_true, axis=-1) if soft else ops.reshape(y_true, (-1,))
        right = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), ops.cast(classes, "int32"))
        self._hits.assign(self._hits + ops.sum(ops.cast(right, self._hits.dtype)))
        self._count.assign(self._count + ops.cast(ops.shape(y_pred)[0], self._count.dtype))

    def result(self) -> Any:
        """Return the share."""
        return self._hits / ops.maximum(self._count, 1.0)


make_trainer = KerasTrainer


def devices() -> list[str]:
    """Return the devices that the framework underneath sees."""
    found: list[str] = _native_module().devices()
    return found


def neurons() -> str:
    """Return how a neuron is computed."""
    return f"{keras.backend.backend()}: {_native_module().neurons()}"


def limit_threads() -> None:
    """Use one thread in this process; it takes effect before the first computation only."""
    _native_module().limit_threads()


def _native_module() -> ModuleType:
    return importlib.import_module(f"sbp_lab.trainers.{NATIVE[keras.backend.backend()]}")


def _in_a_strategy() -> bool:
    found: bool = importlib.import_module("tensorflow").distribute.has_strategy()
    return found


def _build(network: Network, options: TrainerOptions) -> tuple[keras.Model, NetworkSpec | None]:
    policy = _POLICIES[options.precision]
    if not isinstance(network, NetworkSpec):
        keras.utils.set_random_seed(options.seed)
        net = network.make()
        if not isinstance(net, NetworkSpec):
            if not isinstance(net, keras.Model):
                raise TypeError(f"net={network.function!r} must return a keras.Model, got {type(net).__name__}")
            return net, None
        network = net
    time = [None] if options.events or not network.repeats else []
    shape = (*time, *network.image_size, network.in_channels)
    # a ShortcutModel takes the mean over time off by itself
    per_step = options.loss.timed and not options.taps
    return sbp_keras.network(network, shape, per_step=per_step, dtype=policy), network


def _by_name(model: keras.Model, net: keras.Model) -> dict[str, Any]:
    """Return the variables of parameters and statistics by the neutral names, in the order in which they are used."""
    fixed = {} if isinstance(net, sbp_keras.Network) else _lasting(net)
    found = {}
    for name, variable in variables(model).items():
        kind, _, rest = states.neutral(name).partition("/")
        layer, _, part = rest.partition(".")
        found[f"{kind}/{fixed.get(layer, layer) if kind == 'weights' else layer}.{part}"] = variable
    return found


def _lasting(net: keras.Model) -> dict[str, str]:
    """Return layer to a name that it has in a second net of the process too: Keras counts on where nobody named it."""
    counts: dict[str, int] = {}
    names = {}
    for layer in net.layers:
        base = re.sub(r"_\d+$", "", layer.name)
        if base.replace("_", "") == type(layer).__name__.lower():
            place = counts[base] = counts.get(base, -1) + 1
            names[layer.name] = f"{base}_{place}" if place else base
    return names


def _array(variable: Any) -> Any:
    array = np.asarray(ops.convert_to_numpy(variable))
    return np.transpose(array, to_canonical(array.ndim)).copy()


def _native(array: Any) -> Any:
    return np.transpose(array, np.argsort(to_canonical(array.ndim)))


def _assign(variable: Any, array: Any) -> None:
    variable.assign(_native(array))
