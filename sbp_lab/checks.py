"""What can be known to be wrong with a recipe for certain data before anything is trained."""

from __future__ import annotations

from sbp_core import NetworkSpec
from sbp_lab.batches import check_augment
from sbp_lab.data import Source
from sbp_lab.recipe import Recipe


def check(recipe: Recipe, source: Source) -> NetworkSpec | None:
    """Return the network's spec, or None for one of the user's own; raise unless the recipe fits the data.

    Raises:
        ValueError: it does not; the message begins with the field's name.

    Example:
        >>> from sbp_lab.data import open_data
        >>> check(Recipe(batch_size=2000), open_data("digits"))
        Traceback (most recent call last):
        ...
        ValueError: batch_size must be at most 1437, the training samples of digits; got 2000
    """
    count = len(source.train)
    if recipe.batch_size > count:
        raise ValueError(
            f"batch_size must be at most {count}, the training samples of {source.name}; got {recipe.batch_size}"
        )
    check_augment(recipe.augment, source, recipe.frames, recipe.size)
    if recipe.own:
        return None
    try:
        return recipe.network(size=source.size, num_classes=len(source.class_names), in_channels=source.channels)
    except ValueError as error:
        if str(error).startswith("tap "):
            raise ValueError(f"taps: {error}") from None
        raise ValueError(f"net {recipe.net!r} does not fit {source.name}: {error}") from None
