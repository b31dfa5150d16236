"""``sbp inspect``: a network's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sbp_core import validation
from sbp_lab import networks
from sbp_lab.cli.console import console as new_console
from sbp_lab.cli.sources import DATA_FOLDER, DataFolder
from sbp_lab.cli.usage import blamed_on
from sbp_lab.data import open_data


def inspect(
    net: Annotated[str, Parameter(help=f"A file of weights, or one of {', '.join(networks.NETWORKS)}.")],
    /,
    *,
    size: Annotated[int | None, Parameter(help="Height and width of the image, for networks that take any.")] = None,
    width: Annotated[int | None, Parameter(help="Channels of the first stage; as in the source unless given.")] = None,
    classes: Annotated[int | None, Parameter(help="Logits.")] = None,
    time_steps: Annotated[
        int | None, Parameter(name=["--time-steps", "-T"], help="How often the image is shown.")
    ] = None,
    data: Annotated[
        str | None, Parameter(help="Count spikes and energy on images of this data set, and not operations alone.")
    ] = None,
    images: Annotated[int, Parameter(help="How many of them.")] = 16,
    data_folder: DataFolder = DATA_FOLDER,
    out: Annotated[Path | None, Parameter(help="Draw a picture into this PNG.")] = None,
) -> None:
    """Show a network's layers: shapes, parameters, operations; with --data firing rates, synaptic operations, energy.

    Energy is of 45 nm: 4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate, and beside it with the traffic to memory.
    """
    from sbp_lab import inspection

    numbers = {"size": size, "width": width, "classes": classes, "time_steps": time_steps, "images": images}
    with blamed_on(among=numbers):
        for name, value in numbers.items():
            if value is not None:
                validation.count(name, value)
    with blamed_on("--data"):
        source = None if data is None else open_data(data, data_folder)
    with blamed_on("NET"):
        spec, weights = inspection.open_network(net)
        given = {"time_steps": time_steps, "num_classes": classes}
        if source is not None:
            given |= {"num_classes": source.num_classes, "in_channels": source.channels}
        shown = source.size if source is not None else None if size is None else (size, size)
        spec = inspection.adapt(spec, width, shown, **given)
        rows = inspection.rows(spec, weights, source, size=size, images=images)
    new_console().print(inspection.table(spec, rows))
    if out is not None:
        with blamed_on("--out"):
            file = inspection.picture(spec, rows, out)
        new_console().print(f"Wrote {file}", soft_wrap=True)
