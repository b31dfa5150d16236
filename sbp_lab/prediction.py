"""From files to labels, with a trained network."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from sbp_core import validation
from sbp_lab.data import Source
from sbp_lab.files import write_bytes
from sbp_lab.loader import Loader
from sbp_lab.samples import Samples
from sbp_lab.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of one sample.

    Attributes:
        file: it is in.
        index: which of the file's; None where it is the only one.
        label: the class of the highest probability.
        class_name: of that.
        probabilities: softmax of the logits, one a class.
    """

    file: Path
    index: int | None
    label: int
    class_name: str
    probabilities: tuple[float, ...]

    @property
    def probability(self) -> float:
        """Of the label."""
        return self.probabilities[self.label]


def predict(
    trained: Trained,
    paths: Sequence[Path],
    *,
    backend: str | None = None,
    time_steps: int | None = None,
    batch_size: int = 32,
    source: Source | None = None,
) -> Iterator[Prediction]:
    """Yield what a trained network says of every sample in files, normalised as in training.

    Images of another size are brought to the network's as the training's test images were. A picture's levels, 0 to
    255, become the range that the data's own values have; arrays must have values as the data has them.

    Args:
        trained: the network.
        paths: image files; .npy or .npz files of one image or many, channels last; event files, .bin, .aedat, or .npz
            with t, x, y, p; folders of them.
        backend: that computes; the recipe's unless given.
        time_steps: how often an image is shown; as trained unless given.
        batch_size: samples at a time.
        source: the data of the training; only a data set of one's own needs it, whose reader is taken for recordings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file that is damaged, or does not fit the network; the message names it.
        ModuleNotFoundError: the backend's framework is not installed.
    """
    size = validation.count("batch_size", batch_size)
    samples = Samples(paths, trained.inputs, source)
    loader = Loader(
        trained.inputs.source(samples, "files"),
        batch_size=min(size, len(samples)),
        seed=0,
        frames=trained.frames(time_steps),
        size=None if trained.recipe.frames is not None else trained.recipe.size or trained.inputs.size,
    )
    trainer = trained.trainer(backend=backend, time_steps=time_steps)
    names = trained.inputs.class_names

    def each() -> Iterator[Prediction]:
        place = 0
        for images, _ in loader.test():
            for found in softmax(trainer.predict(images)):
                file, index = samples.place(place)
                label = int(np.argmax(found))
                yield Prediction(
                    file=file,
                    index=index,
                    label=label,
                    class_name=names[label],
                    probabilities=tuple(found.tolist()),
                )
                place += 1

    return each()


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return probabilities, in float64, of logits (batch, classes).

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    shifted = np.asarray(logits, np.float64)
    powers = np.exp(shifted - shifted.max(-1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return found


def write_csv(path: Path, predictions: Sequence[Prediction], class_names: Sequence[str]) -> Path:
    """Write a row a sample: file, index, label, class, probability, and the probability of each class.

    Raises:
        OSError: the file cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "index", "label", "class", "probability", *(f"p({name})" for name in class_names)])
    for each in predictions:
        index = "" if each.index is None else each.index
        shown = (f"{value:.6g}" for value in each.probabilities)
        rows.writerow([each.file, index, each.label, each.class_name, f"{each.probability:.6g}", *shown])
    return write_bytes(path, text.getvalue().encode())


def table(predictions: Sequence[Prediction], class_names: Sequence[str]) -> Table:
    """Return a row a sample, with the class that came second."""
    drawn = Table(box=None, pad_edge=False)
    for heading in ("file", "class", "%", "then", "%"):
        drawn.add_column(heading, justify="right" if heading == "%" else "left", overflow="fold")
    for each in predictions:
        name = str(each.file) if each.index is None else f"{each.file}[{each.index}]"
        row = [name, each.class_name, f"{100 * each.probability:.1f}"]
        order = np.argsort(each.probabilities)
        if len(order) > 1:
            second = int(next(at for at in order[::-1] if at != each.label))
            row += [class_names[second], f"{100 * each.probabilities[second]:.1f}"]
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn
