"""From a recipe and its data to a trainer and a loader."""

from __future__ import annotations

from typing import Any, NamedTuple

from sbp_core import NetworkSpec, ShortcutSpec
from sbp_core.signal import at_identity
from sbp_lab import trainers
from sbp_lab.data import Source
from sbp_lab.loader import Loader
from sbp_lab.recipe import Recipe
from sbp_lab.starts import first_weights
from sbp_lab.trainers import Network, OwnNetwork, Trainer, TrainerFactory, TrainerOptions


class Built(NamedTuple):
    """What trains.

    Attributes:
        trainer: network and optimiser.
        loader: batches.
    """

    trainer: Trainer
    loader: Loader


def build(
    recipe: Recipe,
    source: Source,
    *,
    workers: int = 0,
    make_trainer: TrainerFactory | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Built:
    """Build what a recipe says, for the data.

    Args:
        recipe: what to train.
        source: the data.
        workers: processes that make batches ahead of time.
        make_trainer: takes the place of the backend's own.
        shard: the part of every batch that is this process's, and of how many.

    Raises:
        ValueError: a recipe that does not fit the data, a backend that cannot do it, or fewer samples than a batch.
        ModuleNotFoundError: the backend's framework is not installed.

    Example:
        >>> from sbp_lab.data import open_data
        >>> built = build(Recipe(net="resnet18", width=4, time_steps=1), open_data("digits"))
        >>> built.loader.steps_per_epoch
        11
    """
    make = make_trainer or trainers.load(recipe.backend).make_trainer
    loader = Loader(
        source,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=recipe.augment,
        frames=recipe.frames,
        size=recipe.size,
        workers=workers,
        shard=shard,
    )
    if not loader.steps_per_epoch:
        raise ValueError(
            f"batch_size must be at most {len(source.train)}, the training samples of {source.name}; got "
            f"{recipe.batch_size}"
        )
    network = network_of(recipe, source, loader.sample_shape)
    options = options_of(recipe, network, events=len(loader.sample_shape) == 4)
    weights = None
    if recipe.applied.start != "default" and isinstance(network, NetworkSpec):
        weights = first_weights(recipe, network, source, options.taps)
    return Built(make(network, weights, options), loader)


def network_of(recipe: Recipe, source: Source, sample_shape: tuple[int, ...]) -> Network:
    """Return the network for the data."""
    height, width, channels = sample_shape[-3:]
    given: dict[str, Any] = {
        "size": (height, width),
        "num_classes": source.num_classes,
        "in_channels": channels,
    }
    if not recipe.own:
        return recipe.network(**given)
    recipe = recipe.applied
    own = OwnNetwork(function=recipe.net, time_steps=recipe.time_steps, **given)
    if recipe.start != "default":
        made = own.make()
        if not isinstance(made, NetworkSpec):
            raise ValueError(
                f"start must be 'default' with net={recipe.net!r}, a module of your own; got {recipe.start!r}"
            )
        return at_identity(made)
    if recipe.taps is None and recipe.schedule is not None:
        # one that gives a spec says by itself what to tap
        try:
            made = own.make()
        except ValueError:
            made = None
        if not isinstance(made, NetworkSpec):
            raise ValueError(
                f"taps must be given with method={recipe.method!r} and net={recipe.net!r}, a module of your own: the "
                "names of the parts that get a branch"
            )
        return made
    return own


def options_of(recipe: Recipe, network: Network, *, events: bool) -> TrainerOptions:
    """Return the trainer's part of a recipe."""
    recipe = recipe.applied
    taps: tuple[str, ...] = ()
    if recipe.schedule is not None:
        if recipe.taps is not None:
            taps = recipe.taps
        elif isinstance(network, NetworkSpec):
            taps = network.default_taps
        if isinstance(network, NetworkSpec):
            ShortcutSpec(taps=taps).check_taps(network.tap_channels)
    return TrainerOptions(
        taps=taps,
        branch=recipe.branch,
        loss=recipe.loss,
        optimizer=recipe.optimizer,
        clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        ema=recipe.ema,
        precision=recipe.precision,
        compile=recipe.compile,
        events=events,
        seed=recipe.seed,
    )
