"""Runs the command in this process, and keeps what it prints."""

import contextlib
import io
import os
from dataclasses import dataclass
from unittest.mock import patch

from sbp_lab.cli import app


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
