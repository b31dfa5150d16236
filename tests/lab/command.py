"""Runs the command in this process, and keeps what it prints; and what its tests share."""

import contextlib
import io
import os
import re
from dataclasses import dataclass
from unittest.mock import patch

from sbp_lab.cli import app
from sbp_lab.record import Epoch, Run

#: Options of the smallest training.
TINY = ["--net", "resnet10", "--width", "2", "-T", "1", "--batch-size", "700"]


@dataclass
class Done:
    output: str
    exit_code: int
    exception: Exception | None = None


def sbp(*arguments):
    told = io.StringIO()
    wide = patch.dict(os.environ, {"COLUMNS": "200", "TERM": "dumb"})
    with wide, contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            app(list(arguments))
        except SystemExit as end:
            return Done(told.getvalue(), end.code)
        except Exception as error:
            return Done(told.getvalue(), 1, error)
    return Done(told.getvalue(), 0)


def accuracy_of(method, output):
    return re.search(rf"^ *{method} +(\d+\.\d)", output, re.MULTILINE)


def words(done):
    return " ".join(re.sub(r"[│\n]", " ", done.output).split())


def made(recipe, folder):
    """Write a run that nobody trained."""
    epochs = tuple(Epoch(number=number, loss=1.0, accuracy=0.5) for number in range(1, recipe.epochs + 1))
    run = Run(recipe=recipe, epochs=epochs, step_ms=1.0)
    run.write(folder)
    return run
