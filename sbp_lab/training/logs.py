"""The curve of a run for other programs: a CSV file, and TensorBoard's event files.

Both are made from the epochs that the checkpoint holds, so that a run that was resumed has no epoch twice.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from sbp_core.eventfile import EventFile
from sbp_lab.files import write_bytes
from sbp_lab.record import Epoch

METRICS = "metrics.csv"
FOLDER = "tensorboard"


def write_csv(folder: Path, epochs: Sequence[Epoch]) -> Path:
    """Write ``metrics.csv``, a row an epoch.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     file = write_csv(Path(name), [Epoch(number=1, loss=0.5, accuracy=0.75)])
        ...     print(file.read_text().splitlines()[1])
        1,0.5,0.75,,,,,,,,
    """
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(epoch) for epoch in epochs)
    return write_bytes(folder / METRICS, text.getvalue().encode())


class TensorBoard:
    """Draws the curve for TensorBoard.

    Args:
        folder: of the run; the file goes into ``tensorboard`` in it.
        epochs: those of earlier sessions.
        steps_per_epoch: a point is drawn at the step that ended its epoch.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, epochs: Sequence[Epoch], steps_per_epoch: int) -> None:
        self._steps = steps_per_epoch
        self._events = EventFile(folder / FOLDER)
        for epoch in epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        """Draw an epoch.

        Raises:
            OSError: the file cannot be written.
        """
        values = {name: value for name, value in asdict(epoch).items() if name != "number" and value is not None}
        self._events.add(epoch.number * self._steps, values)

    def close(self) -> None:
        """Close the file."""
        self._events.close()
