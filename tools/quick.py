"""Lint, types and tests of what changed since a commit: ``make quick``, in an environment with one framework.

What changed is what git says differs from where the branch left ``main`` (on ``main`` itself: from the commit before),
untracked files included. A module's tests are those named after it, ``tests/torch/test_torch_shortcut*.py`` for
``sbp_torch/shortcut.py``, else its package's; its docstrings' examples run too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Package to where it lies, its tests, and the framework without which they cannot run.
PACKAGES: dict[str, tuple[str, str, str | None]] = {
    "sbp_core": ("sbp_core", "core", None),
    "sbp_torch": ("backends/sbp_torch", "torch", "torch"),
    "sbp_tf": ("backends/sbp_tf", "tf", "tensorflow"),
    "sbp_jax": ("backends/sbp_jax", "jax", "jax"),
    "sbp_keras": ("backends/sbp_keras", "keras_front", "keras"),
    "sbp_conformance": ("conformance/sbp_conformance", "conformance", None),
    "sbp_lab": ("sbp_lab", "lab", "matplotlib"),
}
#: Tests of the suite that take minutes are `make test`'s.
SLOW = {"test_conformance_backends.py", "test_conformance_mutants.py", "test_keras_backends.py"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the changes ask for, print each command, and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", help="compare with this commit instead of where the branch left main")
    base = parser.parse_args(arguments).base or _base()
    changed = [Path(name) for name in _changed(base) if (ROOT / name).exists()]
    if not changed:
        print(f"nothing changed since {base}")
        return 0
    print(f"{len(changed)} files changed since {base}")
    started, failed = time.monotonic(), []
    for command in [*_lint(changed), *_types(changed), *_tests(changed)]:
        shown = [Path(command[0]).name, *command[1:]]
        print(f"\n$ {' '.join(shown)}", flush=True)
        if subprocess.run(command, cwd=ROOT, env=_environment()).returncode:
            failed.append(" ".join(shown[:4]))
    print(f"\n{'failed: ' + '; '.join(failed) if failed else 'all passed'}, {time.monotonic() - started:.0f} s")
    return len(failed)


def _git(*arguments: str) -> str:
    return subprocess.run(("git", *arguments), cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _base() -> str:
    head = _git("rev-parse", "HEAD")
    try:
        left = _git("merge-base", "HEAD", "main")
    except subprocess.CalledProcessError:  # a clone without a branch of that name
        left = head
    return _git("rev-parse", "--short", "HEAD~1" if left == head and not _git("status", "--porcelain") else left)


def _changed(base: str) -> list[str]:
    untracked = _git("ls-files", "--others", "--exclude-standard").splitlines()
    return sorted({*_git("diff", "--name-only", base).splitlines(), *untracked})


def _environment() -> dict[str, str]:
    # the tree, not what is installed; tiny tensors, so one thread each
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "backends", "conformance"))
    one = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    return os.environ | one | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _python(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix == ".py"]


def _package(path: Path) -> str | None:
    for name, (folder, tests, _) in PACKAGES.items():
        if path.is_relative_to(folder) or path.is_relative_to(f"tests/{tests}"):
            return name
    return None


def _here(package: str) -> bool:
    needed = PACKAGES[package][2]
    return needed is None or importlib.util.find_spec(needed) is not None


def _lint(changed: Sequence[Path]) -> list[list[str]]:
    files = [str(path) for path in _python(changed)]
    commands = [[sys.executable, "-m", "ruff", *verb, *files] for verb in (["check"], ["format", "--check"]) if files]
    # import-linter has no module to run
    return [*commands, [str(Path(sys.executable).with_name("lint-imports"))]] if files else commands


def _types(changed: Sequence[Path]) -> list[list[str]]:
    touched = {_package(path) for path in _python(changed) if not path.is_relative_to("tests")}
    checked = sorted(name for name in touched if name is not None and _here(name))
    return [[sys.executable, "-m", "mypy", *(part for name in checked for part in ("-p", name))]] if checked else []


def _tests(changed: Sequence[Path]) -> list[list[str]]:
    tests: dict[str, None] = {}
    examples: list[str] = []
    left_out: dict[str, None] = {}
    for path in _python(changed):
        package = _package(path)
        if package is None:
            tests |= dict.fromkeys(_quick([ROOT / path]) if path.name.startswith("test_") else [])
        elif not _here(package):
            left_out[f"{package} ({PACKAGES[package][2]} is not in this environment)"] = None
        elif path.is_relative_to("tests"):
            tests |= dict.fromkeys(_quick([ROOT / path]) if path.name.startswith("test_") else [])
        else:
            folder = ROOT / "tests" / PACKAGES[package][1]
            tests |= dict.fromkeys(_quick(folder.glob(f"test_*_{path.stem}*.py")) or _quick(folder.glob("test_*.py")))
            examples.append(str(path))
    for reason in left_out:
        print(f"left out: {reason}")
    commands = []
    if examples:
        commands.append([sys.executable, "-m", "pytest", "-q", "--doctest-modules", *examples])
    if tests:
        commands.append([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *tests])
    return commands


def _quick(files: Iterable[Path]) -> list[str]:
    return sorted(str(file.relative_to(ROOT)) for file in files if file.name not in SLOW)


if __name__ == "__main__":
    sys.exit(main())
