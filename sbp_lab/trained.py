"""A trained network as its run's folder, or a file of its weights alone, holds it: to be used, not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from sbp_core import NetworkSpec, pretrained, validation
from sbp_core import weights as files
from sbp_core.specs.base import Spec
from sbp_lab import trainers
from sbp_lab.events import Frames
from sbp_lab.inputs import Inputs
from sbp_lab.optimizers import SGD
from sbp_lab.recipe import Recipe
from sbp_lab.trainers import Network, OwnNetwork, Trainer, TrainerOptions

Which = Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    Attributes:
        file: of its weights.
        recipe: that it was trained by.
        inputs: what it was shown.
        weights: by canonical name.
        spec: of the network; None where it is the user's own and has none.
        notes: what else the file says.
    """

    file: Path
    recipe: Recipe
    inputs: Inputs
    weights: Mapping[str, NDArray[Any]]
    spec: NetworkSpec | None
    notes: Mapping[str, str]

    def frames(self, time_steps: int | None = None) -> Frames | None:
        """Return how recordings become frames, so many of them; None for images."""
        frames = self.recipe.frames
        if frames is None or time_steps is None:
            return frames
        return frames.replace(steps=time_steps)

    def network(self, time_steps: int | None = None) -> Network:
        """Return the network with another number of time steps.

        Raises:
            ValueError: it has parameters of each step, or is the user's own and does not say how many it makes.
        """
        steps = self.recipe.time_steps if time_steps is None else validation.count("time_steps", time_steps)
        if self.spec is not None:
            return with_steps(self.spec, steps)
        height, width = (self.frames() or self.recipe).size or self.inputs.size
        own = OwnNetwork(
            function=self.recipe.net,
            num_classes=len(self.inputs.class_names),
            in_channels=self.inputs.channels,
            size=(height, width),
            time_steps=steps,
        )
        if steps != self.recipe.time_steps and not own.takes("time_steps"):
            raise ValueError(
                f"time_steps must be {self.recipe.time_steps}, got {steps}: net={self.recipe.net!r} takes no time_steps"
            )
        return own

    def trainer(self, *, backend: str | None = None, time_steps: int | None = None) -> Trainer:
        """Return the network with its weights in a framework.

        Args:
            backend: name of the framework's trainer; the recipe's unless given.
            time_steps: how often an image is shown, or frames of a recording; as trained unless given.

        Raises:
            ValueError: as in :meth:`network`, or the weights are not this network's.
            ModuleNotFoundError: the framework is not installed.
        """
        name = self.recipe.backend if backend is None else backend
        options = TrainerOptions(
            loss=self.recipe.applied.loss,
            optimizer=SGD(momentum=0.0),
            precision=self.recipe.precision,
            events=self.inputs.events,
            seed=self.recipe.seed,
        )
        made: Trainer = trainers.load(name).make_trainer(self.network(time_steps), None, options)
        try:
            made.load_state(made.state() | {f"weights/{key}": array for key, array in self.weights.items()})
        except ValueError as error:
            own = f": a network of your own goes with its framework, {self.recipe.backend}" if not self.spec else ""
            raise ValueError(f"{self.file} does not fit the network in {name}{own}: {error}") from None
        return made


def open_trained(run: Path, which: Which = "best") -> Trained:
    """Open what a run left.

    Args:
        run: its folder, or a file of weights that it wrote; or the name of a network that is shipped.
        which: "best" by test accuracy, or "last"; of a folder.

    Raises:
        FileNotFoundError: there is no such folder, file or name, or no epoch was finished.
        ValueError: the file is damaged, or not a run's.
    """
    validation.choice("which", which, get_args(Which))
    path = Path(run)
    if not path.exists() and str(run) in pretrained.names():
        path = pretrained.file(str(run))
    file = path / f"{which}.safetensors" if path.is_dir() else path
    if not file.is_file():
        if path.is_dir():
            raise FileNotFoundError(f"{path} holds no {file.name}: it is no run, or no epoch of it was finished")
        raise FileNotFoundError(
            f"there is no {path}: name the folder of a run, a file of weights in it, or one of `sbp pretrained`"
        )
    saved = files.load(file)
    for name in ("recipe", "inputs"):
        if name not in saved.notes:
            raise ValueError(f"{file} is not of a run of this version of sbp: it does not note {name!r}")
    spec = saved.spec
    if spec is not None and not isinstance(spec, NetworkSpec):
        raise ValueError(f"{file} must be of a network, it is of a {spec.kind!r}")
    weights = saved.weights if spec is None else _checked(file, spec, saved.weights)
    try:
        recipe, inputs = Recipe.from_toml(saved.notes["recipe"]), Inputs.from_json(saved.notes["inputs"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged, in what it notes: {error}") from None
    return Trained(file=file, recipe=recipe, inputs=inputs, weights=weights, spec=spec, notes=saved.notes)


def with_steps(spec: NetworkSpec, time_steps: int) -> NetworkSpec:
    """Return a network whose weights are the same and that makes another number of time steps.

    Raises:
        ValueError: some of its weights are of each step.

    Example:
        >>> from sbp_core import network_spec
        >>> with_steps(network_spec("convnet", time_steps=4), 2).time_steps
        2
        >>> with_steps(network_spec("convnet", time_steps=4, norm="tebn"), 2)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: time_steps must be 4, got 2: the network has weights of each step, such as ...
    """
    if time_steps == spec.time_steps:
        return spec
    values = _repeated(spec.to_dict(), spec.time_steps, time_steps) | {"time_steps": time_steps}
    changed = Spec.from_dict(values)
    if not isinstance(changed, NetworkSpec):
        raise TypeError(f"spec must be a network's, got a {changed.kind!r}")
    shapes = changed.parameter_shapes()
    odd = [name for name, shape in spec.parameter_shapes().items() if shapes.get(name) != shape]
    if odd:
        raise ValueError(
            f"time_steps must be {spec.time_steps}, got {time_steps}: the network has weights of each step, such as "
            f"{odd[0]!r}"
        )
    return changed


def _repeated(value: Any, before: int, now: int) -> Any:
    """Return a spec's values where what repeats a still image, or counts its steps, counts others."""
    if isinstance(value, list | tuple):
        return [_repeated(each, before, now) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _repeated(each, before, now) for key, each in value.items()}
    if found.get("kind") in ("repeat", "time_scale") and found.get("time_steps") == before:
        found["time_steps"] = now
    return found


def _checked(file: Path, spec: NetworkSpec, weights: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    try:
        return files.checked(spec.parameter_shapes(), weights)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} holds other weights than its network has: {error}") from None
