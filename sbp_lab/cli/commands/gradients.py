"""``sbp gradients``: the gradient's size at every layer."""

from __future__ import annotations

from rich.table import Table

from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.folders import Out, new_folder
from sbp_lab.cli.options import TRAINING, with_recipe
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder, opened
from sbp_lab.cli.usage import UsageError
from sbp_lab.methods import PAPERS
from sbp_lab.recipe import Recipe


@with_recipe(without=("method", *TRAINING))
def gradients(recipe: Recipe, *, out: Out = None, data_folder: DataFolder = DATA_FOLDER) -> None:
    """Show the gradient's size at every layer at initialisation, with and without shortcuts; a table and a plot.

    Growing towards the input, the gradient explodes; shrinking, it vanishes.
    """
    from sbp_lab.diagnosis import gradient_norms
    from sbp_lab.environment import machine, versions
    from sbp_lab.files import write_json
    from sbp_lab.plots import plot_gradients
    from sbp_lab.results import describe_network

    if recipe.own:
        raise UsageError(f"net must be one of the zoo for this, got {recipe.net!r}", "--net")
    source = opened(recipe, data_folder)
    with new_folder(out, "gradients") as folder:
        norms = gradient_norms(recipe, PAPERS, source)
        console = new_console()
        title = f"{describe_network(recipe)}, at initialisation, one batch of {recipe.batch_size}, {recipe.backend}"
        table = Table(title=title)
        table.add_column("L2 norm of the gradient of")
        for name in norms:
            table.add_column(name, justify="right")
        for layer in next(iter(norms.values())):
            table.add_row(layer, *(f"{norms[name][layer]:.3g}" for name in norms))
        console.print(table)
        content = {"schema": "sbp.gradients/2", "recipe": recipe.to_dict(), "norms": norms}
        file = write_json(folder / "gradients.json", content | {"versions": versions(), "machine": machine()})
        picture = plot_gradients(norms, title, folder / "gradients.png")
        console.print(f"Wrote {file} and {picture.name}", soft_wrap=True)
