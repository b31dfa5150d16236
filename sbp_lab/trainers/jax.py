"""The JAX trainer: Flax modules, a ``Shortcut`` and optax as pure functions, compiled once a process."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import sbp_jax
from sbp_core import NetworkSpec
from sbp_core.reference.networks import initial_weights
from sbp_core.signal import Diagnosis
from sbp_core.weights import to_canonical
from sbp_jax.neuron import UNROLL_UP_TO
from sbp_jax.taps import call_tapped, module_names
from sbp_jax.weights import variables
from sbp_lab.optimizers import SGD, AdamW, Optimizer
from sbp_lab.trainers import Array, Labels, Network, StepResult, TrainerOptions, finite
from sbp_lab.trainers import state as states
from sbp_lab.trainers.options import FIRST_SCALE, SCALE_GROWS_AFTER

_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class JaxTrainer:
    """See :class:`sbp_lab.trainers.Trainer`.

    Where JAX sees several devices, and they divide the batch, each computes a part of it; the program is that of one.
    """

    def __init__(self, network: Network, weights: Mapping[str, Array] | None, options: TrainerOptions) -> None:
        # the seed is data: another one compiles nothing anew
        self._options, self._seed = dataclasses.replace(options, seed=0), options.seed
        made, spec = _own(network, options)
        self.spec = spec
        if spec is not None:
            # by shape alone: drawing weights that are replaced takes long
            model: Any = nnx.eval_shape(lambda: _wrapped(_net(spec, options), spec, options))
            if weights is None:
                weights = initial_weights(spec, options.seed, options.taps, options.branch)
            sbp_jax.import_weights(model, weights)
            nnx.reseed(model, default=options.seed)
        else:
            model = _wrapped(made, network, options)
        parts: Any = nnx.split(model, nnx.Param, ...)
        self._graph, self._parameters, self._rest = parts
        self._slots = _transformation(options.optimizer).init(self._parameters)
        self._taken = 0
        self._scale, self._good = FIRST_SCALE if options.precision == "float16" else 1.0, 0
        self._diagnose: dict[bool, sbp_jax.Diagnoser] = {}
        self._mean: Any = (self._parameters, self._rest) if options.ema is not None else None

    def train_step(
        self, images: Array, labels: Labels, coefficient: float, learning_rate: float, step: int
    ) -> StepResult:
        """Make one step on a batch."""
        self._options.parts(len(labels))
        parameters, rest, slots, mean, figures = _step(
            self._graph,
            self._options,
            self._parameters,
            self._rest,
            self._slots,
            self._mean,
            self._placed(images, self._options.accumulate),
            self._placed(labels, self._options.accumulate),
            jnp.float32(coefficient),
            jnp.float32(learning_rate),
            jnp.float32(self._scale),
            self._random(step),
        )
        loss, right, norm, first, last = (float(value) for value in np.asarray(figures))
        half = self._options.precision == "float16"
        skipped = half and bool(np.isfinite(loss)) and not bool(np.isfinite(norm))
        result = StepResult(loss, first, last, norm, right / len(labels), skipped)
        if not np.isfinite(loss) or (not np.isfinite(norm) and (not skipped or self._scale <= 1.0)):
            raise self._not_finite(result, images, labels, coefficient, step)
        self._rest = rest
        if skipped:
            self._scale, self._good = self._scale / 2.0, 0
            return result
        self._parameters, self._slots, self._mean = parameters, slots, mean
        self._taken += 1
        if half:
            self._good += 1
            if self._good == SCALE_GROWS_AFTER:
                self._scale, self._good = self._scale * 2.0, 0
        return result

    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        return np.asarray(_predict(self._graph, self._options, *self._used(), self._placed(images)))

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        gradients = self._gradients(images, labels, coefficient, 1)
        named = self._named((gradients, self._rest), lambda name, _: not name.startswith("branches/"))
        return {
            name.removeprefix("weights/"): (array / self._scale).astype(np.float32)
            for name, array in named.items()
            if ".running_" not in name
        }

    def firing_rates(self, images: Array) -> dict[str, float]:
        """Return spikes per neuron and step."""
        rates = _rates(self._graph, self._options, *self._used(), jnp.asarray(images))
        names = [name for name, _ in _neurons(_main(nnx.merge(self._graph, *self._used())))]
        order = names if self.spec is None else [path for path, _ in self.spec.neurons()]
        return {name: float(rates[name]) for name in order if name in rates}

    def diagnose(
        self, batches: Sequence[tuple[Array, Labels]], coefficient: float, *, branches: bool = True
    ) -> Diagnosis:
        """Return the doctor's figures."""
        if branches not in self._diagnose:
            self._diagnose[branches] = sbp_jax.Diagnoser()
        model = nnx.merge(self._graph, self._parameters, self._rest, copy=True)
        given = [(_arranged(jnp.asarray(images), self._options), labels) for images, labels in batches]
        return self._diagnose[branches](model if branches else _main(model), given, coefficient)

    def weights(self) -> dict[str, Array]:
        """Return the main network's weights."""
        return states.main_weights(self.state())

    def state(self) -> states.Arrays:
        """Return all that training goes on from."""
        found = self._named((self._parameters, self._rest))
        for slot, tree in _slot_trees(self._options.optimizer, self._slots).items():
            found |= {
                f"optimizer/{slot}/{name}": array for name, array in self._named((tree, self._rest), _trained).items()
            }
        found[states.STEP] = np.asarray(self._taken)
        if self._mean is not None:
            found |= {f"ema/{name}": array for name, array in self._named(self._mean).items()}
        if self._options.precision == "float16":
            found[states.SCALE] = np.asarray(self._scale, np.float32)
            found[states.GOOD_STEPS] = np.asarray(self._good)
        return found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        arrays = states.checked({name: array.shape for name, array in self.state().items()}, state)
        self._parameters, self._rest = self._with(arrays, "")
        self._taken = int(arrays[states.STEP])
        trees = {}
        for slot, tree in _slot_trees(self._options.optimizer, self._slots).items():
            trees[slot] = self._with(arrays, f"optimizer/{slot}/", (tree, self._rest))[0]
        self._slots = _with_slots(self._slots, trees, self._taken)
        if self._mean is not None:
            self._mean = self._with(arrays, "ema/", self._mean)
        if self._options.precision == "float16":
            self._scale, self._good = float(arrays[states.SCALE]), int(arrays[states.GOOD_STEPS])

    def _placed(self, batch: Any, parts: int = 1) -> jax.Array:
        """Return a batch on all devices, a part of it on each, if there are several and they divide it."""
        devices = jax.local_devices()
        if len(devices) == 1 or (len(batch) // parts) % len(devices):
            return jnp.asarray(batch)
        mesh = Mesh(np.asarray(devices), ("batch",))
        split = PartitionSpec("batch")  # type: ignore[no-untyped-call]
        placed: jax.Array = jax.device_put(batch, NamedSharding(mesh, split))
        return placed

    def _random(self, step: int) -> jax.Array:
        """Return what masks depend on: seed and step."""
        return jnp.asarray([self._seed & 0xFFFFFFFF, step], jnp.uint32)

    def _used(self) -> tuple[Any, Any]:
        """Return what is tested and saved."""
        return (self._parameters, self._rest) if self._mean is None else self._mean

    def _named(self, trees: Any, wanted: Callable[[str, Any], bool] = lambda name, _: True) -> states.Arrays:
        """Return what a pair of trees holds, by the neutral names, in the shared layouts."""
        canonical = self.spec is not None
        return {
            name: np.transpose(np.asarray(variable[...]), _axes(canonical, variable.ndim))
            for name, variable in _variables(nnx.merge(self._graph, *trees), canonical).items()
            if wanted(name, variable)
        }

    def _with(self, arrays: states.Arrays, front: str, trees: Any = None) -> tuple[Any, Any]:
        """Return a pair of trees that holds ``arrays``."""
        canonical = self.spec is not None
        model = nnx.merge(self._graph, *(trees or (self._parameters, self._rest)), copy=True)
        for name, variable in _variables(model, canonical).items():
            if front + name in arrays:
                native = np.transpose(arrays[front + name], np.argsort(_axes(canonical, variable.ndim)))
                variable.set_value(jnp.array(native, variable.dtype))
        parts: Any = nnx.split(model, nnx.Param, ...)
        return parts[1], parts[2]

    def _gradients(self, images: Array, labels: Labels, coefficient: float, step: int) -> Any:
        return _differentiate(
            self._graph,
            self._options,
            self._parameters,
            self._rest,
            jnp.asarray(images),
            jnp.asarray(labels),
            jnp.float32(coefficient),
            jnp.float32(self._scale),
            self._random(step),
        )[0]

    def _not_finite(
        self, result: StepResult, images: Array, labels: Labels, coefficient: float, step: int
    ) -> finite.NotFiniteError:
        what, value = ("gradient", result.gradient) if np.isfinite(result.loss) else ("loss", result.loss)
        model = _seeded(nnx.merge(self._graph, self._parameters, self._rest, copy=True), self._random(step))
        model.train()
        net = _main(model)
        names = module_names(net)
        leaves = {
            name: paths for name, paths in names.items() if not any(other.startswith(f"{name}.") for other in names)
        }
        # in the order in which the spec has them
        order = {} if self.spec is None else {placed.path: at for at, placed in enumerate(self.spec.outline())}
        try:
            _, given = call_tapped(
                net, leaves, (_arranged(jnp.asarray(images), self._options),), _time(net, self._options)
            )
        except RuntimeError:  # a layer that is not called: the gradients have to do
            given = {}
        outputs = [
            (name, np.asarray(given[name][0], np.float32))
            for name in sorted(given, key=lambda name: order.get(name, len(order)))
            if hasattr(given[name][0], "dtype")
        ]
        return finite.describe(
            what,
            value,
            step,
            images=images,
            weights=self._named((self._parameters, self._rest), _trained),
            outputs=outputs,
            gradients=self._named((self._gradients(images, labels, coefficient, step), self._rest), _trained),
        )


make_trainer = JaxTrainer


def devices() -> list[str]:
    """Return the devices that JAX sees."""
    return [str(device) for device in jax.devices()]


def neurons() -> str:
    """Return how a neuron is computed (:func:`sbp_jax.implementation_for`)."""
    return f"unrolled; over {UNROLL_UP_TO} steps scan"


def limit_threads() -> None:
    """Use one thread in this process; it takes effect before the first computation only."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


def _own(network: Network, options: TrainerOptions) -> tuple[Any, NetworkSpec | None]:
    """Return the net if it is the user's own module, and the spec if there is one."""
    if isinstance(network, NetworkSpec):
        return None, network
    net = network.make(rngs=nnx.Rngs(options.seed))
    if isinstance(net, NetworkSpec):
        return None, net
    if not isinstance(net, nnx.Module):
        raise TypeError(f"net={network.function!r} must return an nnx.Module, got {type(net).__name__}")
    return net, None


def _net(spec: NetworkSpec, options: TrainerOptions) -> sbp_jax.Network:
    dtype = _DTYPES[options.precision]
    return sbp_jax.Network(spec, per_step=options.loss.timed, dtype=dtype, rngs=nnx.Rngs(options.seed))


def _wrapped(net: Any, network: Any, options: TrainerOptions) -> Any:
    """Return the net with its branches, if it is to have any."""
    if not options.taps:
        return net
    return sbp_jax.Shortcut(
        net,
        options.taps,
        network.num_classes,
        options.loss.combine,
        branch=options.branch,
        sample=None if isinstance(network, NetworkSpec) else _sample(network, options),
        rngs=nnx.Rngs(options.seed),
    )


def _sample(network: Any, options: TrainerOptions) -> jax.Array:
    time = [network.time_steps] if options.events else []
    return jnp.zeros((*time, 2, *network.size, network.in_channels))


@functools.cache
def _transformation(spec: Optimizer) -> optax.GradientTransformation:
    # one object for each setting, so that jit knows it again; a step multiplies the update by its own rate
    if isinstance(spec, AdamW):
        return optax.adamw(1.0, spec.beta1, spec.beta2, spec.epsilon, weight_decay=spec.weight_decay)
    if isinstance(spec, SGD):
        # optax's own sgd has no weight decay
        return optax.chain(
            optax.add_decayed_weights(spec.weight_decay),
            optax.sgd(1.0, spec.momentum or None, spec.nesterov),
        )
    raise ValueError(f"optimizer must be AdamW or SGD, got {spec!r}")


def _slot_trees(spec: Optimizer, held: Any) -> dict[str, Any]:
    """Return what optax keeps of every weight, by the neutral names."""
    found: dict[str, Any] = {}
    for part in _flat(held):
        if isinstance(part, optax.ScaleByAdamState):
            found |= {"m": part.mu, "v": part.nu}
        if isinstance(part, optax.TraceState):
            found["momentum"] = part.trace
    return {slot: found[slot] for slot in states.slots(spec)}


def _with_slots(held: Any, trees: Mapping[str, Any], taken: int) -> Any:
    """Return optax's state with other trees in it."""
    if isinstance(held, optax.ScaleByAdamState):
        return optax.ScaleByAdamState(jnp.asarray(taken, held.count.dtype), trees["m"], trees["v"])
    if isinstance(held, optax.TraceState):
        return optax.TraceState(trees["momentum"])
    if type(held) is tuple:
        return tuple(_with_slots(part, trees, taken) for part in held)
    return held


def _flat(held: Any) -> list[Any]:
    return [each for part in held for each in _flat(part)] if type(held) is tuple else [held]


@functools.partial(jax.jit, static_argnames=("graph", "options"))
def _step(
    graph: Any,
    options: TrainerOptions,
    parameters: Any,
    rest: Any,
    slots: Any,
    mean: Any,
    images: Any,
    labels: Any,
    coefficient: Any,
    learning_rate: Any,
    scale: Any,
    step: Any,
) -> tuple[Any, Any, Any, Any, Any]:
    gradients, rest, loss, right = _differentiate(
        graph, options, parameters, rest, images, labels, coefficient, scale, step
    )
    gradients = jax.tree.map(lambda gradient: gradient / scale, gradients)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    # a network that holds the gradients in place of its weights has them by name
    holder = _variables(
        nnx.merge(graph, gradients, rest), canonical=isinstance(_spec(graph, gradients, rest), NetworkSpec)
    )
    kernels = [v[...].ravel() for name, v in holder.items() if name.startswith("weights/") and v.ndim > 1]
    ends = [jnp.linalg.norm(kernel) for kernel in (kernels[0], kernels[-1])]
    if options.clip_norm is not None:
        factor = jnp.minimum(1.0, options.clip_norm / norm)
        gradients = jax.tree.map(lambda gradient: gradient * factor, gradients)
    updates, slots = _transformation(options.optimizer).update(gradients, slots, parameters)
    parameters = optax.apply_updates(parameters, jax.tree.map(lambda update: learning_rate * update, updates))
    if mean is not None:
        mean = jax.tree.map(functools.partial(_moved, options.ema or 0.0), mean, (parameters, rest))
    return parameters, rest, slots, mean, jnp.stack([loss, right, norm, *ends])


def _moved(decay: float, mean: Any, value: Any) -> Any:
    # keys and counts have no mean
    return mean + (1.0 - decay) * (value - mean) if jnp.issubdtype(value.dtype, jnp.floating) else value


@functools.partial(jax.jit, static_argnames=("graph", "options"))
def _differentiate(
    graph: Any,
    options: TrainerOptions,
    parameters: Any,
    rest: Any,
    images: Any,
    labels: Any,
    coefficient: Any,
    scale: Any,
    step: Any,
) -> tuple[Any, Any, Any, Any]:
    """Return the gradients times ``scale``, what moved, the loss, and how many images were right."""

    def loss(parameters: Any, rest: Any, images: Any, labels: Any, place: Any) -> tuple[Any, Any]:
        # copies, since a module may only change variables of the trace that it lives in
        model = _seeded(nnx.merge(graph, parameters, rest, copy=True), step, place)
        model.train()
        wrapped = isinstance(model, sbp_jax.Shortcut)
        given = {"coefficient": coefficient} if wrapped and options.loss.combine == "logits" else {}
        output = model(_arranged(images, options), **given, **_time(_main(model), options))
        if not isinstance(output, sbp_jax.ShortcutOutput):
            output = sbp_jax.ShortcutOutput(output, ())
        output = jax.tree.map(lambda logits: logits.astype(jnp.float32), output)
        value = sbp_jax.ShortcutLoss(options.loss)(output, labels, coefficient)
        return value * scale, (value, _right(output.main, labels), nnx.state(model, nnx.Not(nnx.Param)))

    differentiate = jax.grad(loss, has_aux=True)
    parts = options.accumulate
    if parts == 1:
        gradients, (value, right, rest) = differentiate(parameters, rest, images, labels, jnp.uint32(0))
        return gradients, rest, value, right

    def add(carried: Any, part: Any) -> tuple[Any, None]:
        total, rest, value, right = carried
        gradients, (more, hits, rest) = differentiate(parameters, rest, *part)
        total = jax.tree.map(lambda a, b: a + b / parts, total, gradients)
        return (total, rest, value + more / parts, right + hits), None

    def split(x: Any) -> Any:
        return x.reshape(parts, -1, *x.shape[1:])

    start = (jax.tree.map(jnp.zeros_like, parameters), rest, jnp.float32(0.0), jnp.float32(0.0))
    each = (split(images), split(labels), jnp.arange(parts, dtype=jnp.uint32))
    (gradients, rest, value, right), _ = lax.scan(add, start, each)
    return gradients, rest, value, right


@functools.partial(jax.jit, static_argnames=("graph", "options"))
def _predict(graph: Any, options: TrainerOptions, parameters: Any, rest: Any, images: Any) -> Any:
    net = _main(nnx.merge(graph, parameters, rest, copy=True))
    net.eval()
    logits = net(_arranged(images, options), **_time(net, options)).astype(jnp.float32)
    return logits.mean(0) if logits.ndim == 3 else logits


@functools.partial(jax.jit, static_argnames=("graph", "options"))
def _rates(graph: Any, options: TrainerOptions, parameters: Any, rest: Any, images: Any) -> dict[str, Any]:
    net = _main(nnx.merge(graph, parameters, rest, copy=True))
    net.eval()
    found = dict(_neurons(net))
    if not found:
        return {}
    _, given = call_tapped(net, found, (_arranged(images, options),), _time(net, options))
    return {
        name: jnp.stack([jnp.mean(x[0] if isinstance(x, tuple) else x) for x in each]).mean()
        for name, each in given.items()
    }


def _neurons(net: Any) -> list[tuple[str, Any]]:
    """Return name and paths of every neuron that fires."""
    found = []
    for name, paths in module_names(net).items():
        module = net
        for part in paths[0]:
            module = module[part] if isinstance(module, list | tuple | dict) else getattr(module, str(part))
        if isinstance(module, sbp_jax.LIF) and module.spec.output == "spikes":
            found.append((name, paths))
    return found


def _main(model: Any) -> Any:
    return model.main if isinstance(model, sbp_jax.Shortcut) else model


def _spec(graph: Any, parameters: Any, rest: Any) -> Any:
    return getattr(_main(nnx.merge(graph, parameters, rest)), "spec", None)


def _arranged(images: Any, options: TrainerOptions) -> Any:
    """Return event frames with time in front."""
    return jnp.moveaxis(images, 1, 0) if options.events else images


def _time(net: Any, options: TrainerOptions) -> dict[str, Any]:
    return {"time_axis": 0} if options.events and isinstance(net, sbp_jax.Network) else {}


def _seeded(model: Any, step: Any, place: Any = 0) -> Any:
    """Give every random stream a key of seed, step and part alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(step[0]), step[1]), place)
    streams = [stream for _, stream in nnx.iter_graph(model) if isinstance(stream, nnx.RngStream)]
    for at, stream in enumerate(streams):
        stream.key.set_value(jax.random.fold_in(key, at))
        stream.count.set_value(jnp.zeros_like(stream.count[...]))
    return model


def _variables(model: Any, canonical: bool) -> dict[str, nnx.Variable[Any]]:
    """Return the variables of parameters and statistics by the neutral names."""
    if canonical:
        return {states.neutral(name): variable for name, variable in variables(model).items()}
    found: dict[str, nnx.Variable[Any]] = {}
    for path, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param | nnx.BatchStat):
            found[states.neutral(".".join(map(str, path)))] = variable
    return found


def _axes(canonical: bool, rank: int) -> tuple[int, ...]:
    return to_canonical(rank) if canonical else tuple(range(rank))


def _trained(name: str, variable: Any) -> bool:
    return isinstance(variable, nnx.Param)


def _right(logits: Any, labels: Any) -> Any:
    logits = logits.mean(0) if logits.ndim == 3 else logits
    classes = labels.argmax(-1) if labels.ndim == 2 else labels
    return jnp.sum(logits.argmax(-1) == classes).astype(jnp.float32)
