"""Every test's own random numbers, and the matrix.

The numbers depend on a test's name alone, not on which ran before it, nor in which process: what fails, fails again.
``SBP_TEST_SEED=7 pytest ...`` draws others; a failure says which were drawn.

The matrix: what a Shortcut was attached to, in which framework and mode, printed as tables after a run.

A test that is a cell carries ``@pytest.mark.matrix(attached, framework, mode)``; one that starts a process whose tests
are cells carries ``matrix`` without arguments, so that ``pytest -m matrix`` runs it too. Every process of pytest adds
its cells to one file, but not xdist's workers: their reports reach their controller. The first process prints it.
"""

import collections
import json
import os
import random
import re
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

SEED = int(os.environ.get("SBP_TEST_SEED", "0"))

FILE = "SBP_MATRIX_FILE"  # in the environment: whoever finds it there adds to the file and prints nothing


@pytest.fixture(autouse=True)
def _own_random_numbers(request):
    seed = [SEED, zlib.crc32(request.node.nodeid.encode())]
    for value in vars(request.module).values():
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    # only what the test's module has imported: a suite of one framework must not import another
    for framework, start in STARTS.items():
        if framework in sys.modules:
            start(sys.modules[framework], number)


STARTS = {
    "torch": lambda torch, seed: torch.manual_seed(seed),
    "tensorflow": lambda tf, seed: tf.random.set_seed(seed),
    "keras": lambda keras, seed: keras.utils.set_random_seed(seed),
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.sections.append(("again", f"SBP_TEST_SEED={SEED} pytest '{item.nodeid}'"))
    return report


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # files in it are not written atomically: one for each worker and the processes that it starts
        if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / config.workerinput["workerid"])
        return
    first = FILE not in os.environ
    if first:
        handle, os.environ[FILE] = tempfile.mkstemp(prefix="sbp_matrix_", suffix=".jsonl")
        os.close(handle)
    config.pluginmanager.register(Matrix(Path(os.environ[FILE]), first), "sbp_matrix")


def pytest_collection_modifyitems(config, items):
    places = collections.Counter()
    for item in items:
        places[item.path.name] += 1
        for mark in item.iter_markers("matrix"):
            if mark.args:
                item.user_properties.append(("matrix", [*mark.args, [item.path.name, places[item.path.name]]]))
    if hasattr(config, "workerinput"):
        items[:] = long_first(items, config.workerinput["workercount"])


def long_first(items, workers):
    """Return the items so that those marked ``long`` head the shares that xdist's workers start with.

    One that takes a minute and starts last would leave the other cores idle.
    """
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    ends = [len(rest) * worker // workers for worker in range(workers + 1)]
    shares = ([*long[worker::workers], *rest[ends[worker] : ends[worker + 1]]] for worker in range(workers))
    return [item for share in shares for item in share]


@pytest.fixture
def matrix_says(record_property):
    """Say in a word or two what a cell found, where that is more than ``ok``."""
    return lambda words: record_property("matrix says", words)


class Matrix:
    """Writes down the cells of this process; the first process prints them all."""

    def __init__(self, path, first):
        self.path, self.first = path, first

    def pytest_runtest_logreport(self, report):
        cells = [value for name, value in report.user_properties if name == "matrix"]
        if cells and (report.when == "call" or not report.passed):
            with self.path.open("a") as file:
                file.writelines(json.dumps([*cell, outcome(report)]) + "\n" for cell in cells)

    def pytest_terminal_summary(self, terminalreporter):
        if self.first:
            cells = [json.loads(line) for line in self.path.read_text().splitlines()]
            for framework in sorted({cell[1] for cell in cells}):
                terminalreporter.section(f"shortcuts in {framework}")
                for line in table([cell for cell in cells if cell[1] == framework]):
                    terminalreporter.write_line(line)

    def pytest_unconfigure(self):
        if self.first:
            del os.environ[FILE]
            self.path.unlink()


def outcome(report):
    """Return what a cell of the table says about a test."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        return re.sub(r"^(\S+) is not installed.*", r"no \1", re.split("[:;,]", reason)[0])
    said = [value for name, value in report.user_properties if name == "matrix says"]
    return (said or ["ok"])[-1] if report.passed else "FAILS"


def together(outcomes):
    """Return what a cell of several tests says: a failure before what ran, and that before a skip."""
    ran = [text for text in outcomes if text.startswith("ok")]
    return "FAILS" if "FAILS" in outcomes else (ran or outcomes)[0]


def table(cells):
    """Return the lines of a Markdown table of one framework's cells, in the order in which the tests are written."""
    cells = sorted(cells, key=lambda cell: cell[3])
    modes = list(dict.fromkeys(mode for _, _, mode, _, _ in cells))
    found = {}
    for attached, _, mode, _, text in cells:
        found.setdefault(attached, {}).setdefault(mode, []).append(text)
    yield "| | " + " | ".join(modes) + " |"
    yield "|" + "---|" * (len(modes) + 1)
    for attached, row in found.items():
        yield f"| {attached} | " + " | ".join(together(row[mode]) if mode in row else "-" for mode in modes) + " |"
