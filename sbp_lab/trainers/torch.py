"""The PyTorch trainer, on the graphics processor if there is one: a ``Shortcut``, its loss and a torch optimiser.

Of several processes each has its part of every batch: DistributedDataParallel round the Shortcut, batch norm by the
statistics of the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sbp_torch
from sbp_core import NetworkSpec
from sbp_core.reference.networks import initial_weights
from sbp_core.signal import Diagnosis
from sbp_lab.optimizers import SGD, AdamW, Optimizer
from sbp_lab.trainers import Array, Labels, Network, StepResult, TrainerOptions, finite, torch_processes
from sbp_lab.trainers import state as states
from sbp_lab.trainers.options import FIRST_SCALE, SCALE_GROWS_AFTER
from sbp_lab.trainers.torch_processes import TorchProcesses, synchronised
from sbp_torch.kernels.fused import LEAST_ELEMENTS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: What torch's optimisers call their slots.
_SLOTS = {"m": "exp_avg", "v": "exp_avg_sq", "momentum": "momentum_buffer"}


class TorchTrainer:
    """See :class:`sbp_lab.trainers.Trainer`."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, Array] | None,
        options: TrainerOptions,
        processes: TorchProcesses | None = None,
    ) -> None:
        self._options = options
        self._processes = processes
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if processes is not None:
            self._device = processes.device()
        with self._seeded(0):
            self._net, self.spec, sample = _build(network, options)
            self._model: nn.Module = self._net
            if options.taps:
                self._model = sbp_torch.Shortcut(
                    self._net,
                    options.taps,
                    network.num_classes,
                    options.loss.combine,
                    sample=sample,
                    branch=options.branch,
                )
        if weights is None and self.spec is not None:
            weights = initial_weights(self.spec, options.seed, options.taps, options.branch)
        if weights is not None:
            sbp_torch.import_weights(self._model, weights)
        if processes is not None:
            synchronised(self._model)
        self._model.to(self._device)
        self._run: Any = self._model
        if processes is not None:
            self._run = processes.distributed(self._model, unused=self.spec is None)
        if options.compile:
            self._run = torch.compile(self._run)
        self._loss = sbp_torch.ShortcutLoss(options.loss)
        self._named = {states.neutral(name): p for name, p in self._model.named_parameters(remove_duplicate=False)}
        self._named = {_with_taps(name): p for name, p in self._named.items()}
        self._kernels = [weight for weight in self._net.parameters() if weight.ndim > 1]
        self._optimizer = _optimizer(options.optimizer, list(self._model.parameters()))
        self._taken = 0
        half = options.precision == "float16"
        self._scaler = torch.amp.GradScaler(
            self._device.type, FIRST_SCALE, growth_interval=SCALE_GROWS_AFTER, enabled=half
        )
        held = sbp_torch.export_weights(self._model) if options.ema is not None else {}
        self._mean = {states.neutral(name): self._tensor(array) for name, array in held.items()}

    def train_step(
        self, images: Array, labels: Labels, coefficient: float, learning_rate: float, step: int
    ) -> StepResult:
        """Make one step on a batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss, right = self._backward(images, labels, coefficient, step)
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        count = len(labels)
        if self._processes is not None:
            # the gradients are of the whole batch already
            loss, right = self._processes.total(torch.stack([loss / self._processes.count, right.to(loss.dtype)]))
            count *= self._processes.count
        norm = nn.utils.get_total_norm(gradients)
        ends = [_norm(weight.grad, norm) for weight in (self._kernels[0], self._kernels[-1])]
        # one transfer for all
        figures = torch.stack([loss, right.to(loss.dtype), norm.to(loss.dtype), *(end.to(loss.dtype) for end in ends)])
        result = _result(figures.tolist(), count, self._scaler.is_enabled())
        what = "loss" if not np.isfinite(result.loss) else "gradient"
        if what == "loss" or (not np.isfinite(result.gradient) and not result.skipped):
            raise self._not_finite(what, result, images, labels, coefficient, step)
        if self._options.clip_norm is not None:
            torch._foreach_mul_(gradients, torch.clamp(self._options.clip_norm / norm, max=1.0))
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if result.skipped:
            if self._scaler.get_scale() < 1.0:
                raise self._not_finite("gradient", result, images, labels, coefficient, step)
            return result
        self._taken += 1
        if self._mean:
            self._follow()
        return result

    @torch.no_grad()
    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        with self._averaged(), self._computing():
            self._net.eval()
            logits: Tensor = self._net(self._images(images), **self._where_time_is())
        logits = logits.float()
        return (logits.mean(0) if logits.ndim == 3 else logits).cpu().numpy()

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        before = sbp_torch.export_weights(self._model)
        self._backward(images, labels, coefficient, 1)
        # the pass has moved the running statistics
        sbp_torch.import_weights(self._model, before)
        scale = self._scaler.get_scale()
        return {
            name: parameter.grad.div(scale).cpu().numpy()
            for name, parameter in self._net.named_parameters()
            if parameter.grad is not None
        }

    @torch.no_grad()
    def firing_rates(self, images: Array) -> dict[str, float]:
        """Return spikes per neuron and step."""
        rates: dict[str, Tensor] = {}
        layers = {
            name: m
            for name, m in self._net.named_modules()
            if isinstance(m, sbp_torch.LIF) and m.spec.output == "spikes"
        }
        with self._averaged(), self._computing(), _watched(layers, lambda name, x: rates.update({name: x.mean()})):
            self._net.eval()
            self._net(self._images(images), **self._where_time_is())
        return {name: rate.item() for name, rate in rates.items()}

    def diagnose(
        self, batches: Sequence[tuple[Array, Labels]], coefficient: float, *, branches: bool = True
    ) -> Diagnosis:
        """Return the doctor's figures."""
        model = self._model if branches else self._net
        if isinstance(model, sbp_torch.Shortcut):
            model.set_coefficient(coefficient)
        return sbp_torch.diagnose(model, [(self._images(images), labels) for images, labels in batches])

    def weights(self) -> dict[str, Array]:
        """Return the main network's weights."""
        return states.main_weights(self.state())

    def state(self) -> states.Arrays:
        """Return all that training goes on from."""
        found = {states.neutral(name): array for name, array in sbp_torch.export_weights(self._model).items()}
        for slot in states.slots(self._options.optimizer):
            for name, parameter in self._named.items():
                held = self._optimizer.state.get(parameter, {}).get(_SLOTS[slot])
                array = torch.zeros_like(parameter) if held is None else held
                found[f"optimizer/{slot}/{name}"] = array.detach().cpu().numpy().copy()
        found[states.STEP] = np.asarray(self._taken)
        found |= {f"ema/{name}": tensor.cpu().numpy().copy() for name, tensor in self._mean.items()}
        if self._scaler.is_enabled():
            found[states.SCALE] = np.asarray(self._scaler.get_scale(), np.float32)
            found[states.GOOD_STEPS] = np.asarray(self._scaler.state_dict()["_growth_tracker"])
        return found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        arrays = states.checked({name: array.shape for name, array in self.state().items()}, state)
        names = {name: states.neutral(name) for name in sbp_torch.export_weights(self._model)}
        sbp_torch.import_weights(self._model, {name: arrays[key] for name, key in names.items()})
        self._taken = int(arrays[states.STEP])
        for name, parameter in self._named.items():
            slots = {_SLOTS[slot]: arrays[f"optimizer/{slot}/{name}"] for slot in states.slots(self._options.optimizer)}
            if not slots or not self._taken:
                self._optimizer.state.pop(parameter, None)
                continue
            held: dict[str, Any] = {key: self._tensor(array) for key, array in slots.items()}
            if isinstance(self._options.optimizer, AdamW):
                held["step"] = torch.tensor(float(self._taken), device=self._device)
            self._optimizer.state[parameter] = held
        for name, tensor in self._mean.items():
            tensor.copy_(self._tensor(arrays[f"ema/{name}"]))
        if self._scaler.is_enabled():
            scale = {"scale": float(arrays[states.SCALE]), "_growth_tracker": int(arrays[states.GOOD_STEPS])}
            self._scaler.load_state_dict(self._scaler.state_dict() | scale)

    def _backward(self, images: Array, labels: Labels, coefficient: float, step: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients at the weights, and return the loss and how many images were right."""
        self._model.train()
        self._optimizer.zero_grad()
        if isinstance(self._model, sbp_torch.Shortcut):
            self._model.set_coefficient(coefficient)
        size = self._options.parts(len(labels))
        total, right = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        with self._seeded(step):
            for start in range(0, len(labels), size):
                part = slice(start, start + size)
                targets = torch.as_tensor(labels[part], device=self._device)
                with self._computing():
                    output = self._run(self._images(images[part]), **self._where_time_is())
                if isinstance(output, Tensor):
                    output = sbp_torch.ShortcutOutput(output, ())
                output = sbp_torch.ShortcutOutput(output.main.float(), tuple(b.float() for b in output.branches))
                loss = self._loss(output, targets, coefficient) / self._options.accumulate
                self._scaler.scale(loss).backward()
                total += loss.detach()
                right += _right(output.main.detach(), targets)
        return total, right

    def _not_finite(
        self, what: str, result: StepResult, images: Array, labels: Labels, coefficient: float, step: int
    ) -> finite.NotFiniteError:
        if self._processes is not None:
            images = self._processes.whole(images)  # each looks at all, and finds the same
        gradients = {name: p.grad.cpu().numpy() for name, p in self._named.items() if p.grad is not None}
        outputs: list[tuple[str, Any]] = []
        leaves = {name: m for name, m in self._model.named_modules() if name and not any(True for _ in m.children())}
        weights = {name: p.detach().cpu().numpy() for name, p in self._named.items()}
        # eager, and with the same masks
        with (
            torch.no_grad(),
            self._seeded(step),
            self._computing(),
            _watched(leaves, lambda name, x: outputs.append((_layer(name), x.float().cpu().numpy()))),
        ):
            self._model(self._images(images), **self._where_time_is())
        value = result.loss if what == "loss" else result.gradient
        return finite.describe(what, value, step, images=images, weights=weights, outputs=outputs, gradients=gradients)

    def _follow(self) -> None:
        """Move the running mean."""
        decay = self._options.ema or 0.0
        held = {states.neutral(name): tensor for name, tensor in _floating(self._model)}
        means = list(self._mean.values())
        with torch.no_grad():
            torch._foreach_lerp_(means, [held[name] for name in self._mean], 1.0 - decay)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the running mean in the place of the weights."""
        if not self._mean:
            yield
            return
        held = {states.neutral(name): tensor for name, tensor in _floating(self._model)}
        before = {name: tensor.detach().clone() for name, tensor in held.items()}
        try:
            with torch.no_grad():
                for name, tensor in held.items():
                    tensor.copy_(self._mean[name])
            yield
        finally:
            with torch.no_grad():
                for name, tensor in held.items():
                    tensor.copy_(before[name])

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        dtype = _DTYPES[self._options.precision]
        return torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32)

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Have what is random depend on seed and step alone; the caller's own generator is left as it was."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            place = [self._processes.index] if self._processes is not None else []
            seed = int(np.random.SeedSequence([self._options.seed, step, *place]).generate_state(1, np.uint64)[0])
            torch.manual_seed(seed & (2**63 - 1))
            yield

    def _where_time_is(self) -> dict[str, Any]:
        return {"time_axis": 0} if self._options.events and self.spec is not None else {}

    def _tensor(self, array: Any) -> Tensor:
        return torch.tensor(np.asarray(array), device=self._device)

    def _images(self, images: Array) -> Tensor:
        x = torch.as_tensor(images, device=self._device)
        # contiguous: strides that one channel makes look like channels last are those at which PyTorch's convolutions
        # write beyond their memory on some processors
        axes = (1, 0, 4, 2, 3) if self._options.events else (0, 3, 1, 2)
        return x.permute(axes).clone(memory_format=torch.contiguous_format)


def _build(network: Network, options: TrainerOptions) -> tuple[nn.Module, NetworkSpec | None, Tensor | None]:
    """Return the net, its spec, and what it may be tried on where it has none."""
    if not isinstance(network, NetworkSpec):
        net = network.make()
        if not isinstance(net, NetworkSpec):
            if not isinstance(net, nn.Module):
                raise TypeError(f"net={network.function!r} must return a torch.nn.Module, got {type(net).__name__}")
            time = [network.time_steps] if options.events else []
            return net, None, torch.zeros(*time, 2, network.in_channels, *network.size)
        network = net
    return sbp_torch.Network(network, options.loss.timed), network, None


def _optimizer(spec: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if isinstance(spec, AdamW):
        return torch.optim.AdamW(
            parameters,
            betas=(spec.beta1, spec.beta2),
            eps=spec.epsilon,
            weight_decay=spec.weight_decay,
            fused=True,
        )
    if isinstance(spec, SGD):
        return torch.optim.SGD(
            parameters, momentum=spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov, fused=True
        )
    raise ValueError(f"optimizer must be AdamW or SGD, got {spec!r}")


@contextlib.contextmanager
def _watched(layers: Mapping[str, nn.Module], see: Any) -> Iterator[None]:
    """Show what each layer gives, while the context lasts."""

    def hook(name: str) -> Any:
        def seen(module: nn.Module, inputs: Any, output: Any) -> None:
            x = output[0] if isinstance(output, tuple) and output else output
            if isinstance(x, Tensor) and x.is_floating_point():
                see(name, x.detach())

        return seen

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.mean(0) if logits.ndim == 3 else logits
    return (logits.argmax(-1) == (labels.argmax(-1) if labels.ndim == 2 else labels)).sum()


def _result(figures: list[float], count: int, half: bool) -> StepResult:
    loss, right, norm, first, last = figures
    skipped = half and bool(np.isfinite(loss)) and not bool(np.isfinite(norm))
    return StepResult(loss, first, last, norm, right / count, skipped)


def _norm(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.norm()


def _floating(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that ``export_weights`` copies, by its names."""
    if not isinstance(model, sbp_torch.Shortcut):
        yield from ((name, x) for name, x in model.state_dict(keep_vars=True).items() if x.is_floating_point())
        return
    yield from ((f"main.{name}", x) for name, x in _floating(model.main))
    for key, branch in model.branches.items():
        yield from ((f"branches.{key.replace('/', '.')}.{name}", x) for name, x in _floating(branch))


def _with_taps(name: str) -> str:
    return name.replace("/", ".").replace(".", "/", 1) if name.startswith("branches/") else name


def _layer(name: str) -> str:
    return name.removeprefix("main.").replace("/", ".")


make_trainer = TorchTrainer


def joined() -> contextlib.AbstractContextManager[TorchProcesses]:
    """Join the processes that torchrun started (:func:`sbp_lab.trainers.processes.joined`)."""
    return torch_processes.joined(TorchTrainer)


def devices() -> list[str]:
    """Return the devices that PyTorch sees."""
    return ["cpu", *(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))]


def neurons() -> str:
    """Return how a neuron is computed on each device (:func:`sbp_torch.implementation_for`)."""
    found = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        large, small = (sbp_torch.implementation_for(torch.empty(1, n, device=device)) for n in (LEAST_ELEMENTS, 1))
        found.append(f"{device}: {large}" if large == small else f"{device}: {large}, {small} for small input")
    return "; ".join(found)


def limit_threads() -> None:
    """Use one thread in this process."""
    torch.set_num_threads(1)
