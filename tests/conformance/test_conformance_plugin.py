"""The pytest plugin, from a wheel, in a project whose own settings are hostile to it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sbp_conformance import cases_of

ROOT = Path(__file__).parents[2]
REFERENCE = "sbp_core.reference.backend:make_backend"
SCHEDULES = len(cases_of("schedule"))
COSINES = sum(case.name.startswith("schedule-cosine") for case in cases_of("schedule"))

# no file and no function of ours fits these names, every warning is an error, and nothing unknown is allowed
HOSTILE = """
    [pytest]
    python_files = check_*.py
    python_functions = verify_*
    python_classes = Verify*
    testpaths = nowhere
    addopts = -ra --strict-markers --strict-config -p no:cacheprovider
    filterwarnings = error
    xfail_strict = true
    usefixtures = nothing_of_that_name
"""

BACKENDS = """
    import sys, warnings
    from sbp_core.reference.backend import ReferenceBackend

    class Half(ReferenceBackend):
        dtypes = ("float32",)

        def schedule(self, schedule, step, *, mode):
            warnings.warn("deprecated", DeprecationWarning)
            wrong = schedule.kind == "cosine"
            return super().schedule(schedule, step, mode=mode) / (2 if wrong else 1)

    class Started:
        name, versions, modes, dtypes = "started", {}, ("eager",), ("float64",)
        spike = ReferenceBackend.spike

    def leaves():
        sys.exit(3)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the wheel and install it alone, in a folder of its own."""
    pytest.importorskip("build", reason="not installed: build")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, capture_output=True, text=True, check=True)
    (wheel,) = folder.glob("*.whl")
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], capture_output=True, text=True, check=True)
    return folder / "site"


@pytest.fixture
def project(site, tmp_path):
    """Run pytest on the installed suite, in a project of somebody else's."""
    (tmp_path / "pytest.ini").write_text(textwrap.dedent(HOSTILE))
    (tmp_path / "backends.py").write_text(textwrap.dedent(BACKENDS))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(site), str(tmp_path)]), "PYTHONSAFEPATH": "1"}

    def run(*arguments, head=("-m", "pytest", "--pyargs", "sbp_conformance")):
        command = [sys.executable, *head, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    return run


def summary(done):
    return done.stdout.strip().splitlines()[-1]


def test_every_check_is_a_test(project):
    done = project("--sbp-backend", REFERENCE, "--sbp-level", "schedule", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "schedule-cosine-epoch[eager-float32] PASSED" in done.stdout
    assert f"{REFERENCE}::loads PASSED" in done.stdout
    assert summary(done).split(" in ")[0].strip("= ").startswith(f"{SCHEDULES + 1} passed")


def test_failures_and_what_is_not_offered_are_told_by_name(project):
    backends = [
        word for name in ("Half", "Started", "leaves", "none") for word in ("--sbp-backend", f"backends:{name}")
    ]
    done = project(*backends, "--sbp-level", "schedule", "-q")
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "coefficient at step 0: off by 0.5 of its largest magnitude" in done.stdout
    assert "repeat: python -m sbp_conformance --backend backends:Half --case schedule-cosine-epoch" in done.stdout
    checks = sum(len(case.dtypes) + len(case.compiled) for case in cases_of("schedule"))
    assert f"member schedule: {checks} checks: schedule-evolutionary-iteration" in done.stdout
    assert "SystemExit: 3" in done.stdout
    assert "backend 'backends:none': module 'backends' has no 'none'" in done.stdout
    # the schedules of a kind, and two factories; the level that is missing is skipped
    assert f"{COSINES + 2} failed" in summary(done)
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_expected_failures_are_strict(project, tmp_path):
    file = tmp_path / "fails.toml"
    common = (
        "--sbp-backend",
        "backends:Half",
        "--sbp-level",
        "schedule",
        "-q",
        "--sbp-expected-failures",
        "fails.toml",
    )
    file.write_text('"schedule-cosine-*" = "halved"')
    done = project(*common)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COSINES} xfailed" in summary(done)
    file.write_text('"schedule-*" = "all halved"\n"no-such-case" = "gone"')
    done = project(*common)
    assert done.returncode == 1
    assert "[XPASS(strict)] all halved" in done.stdout
    assert "'no-such-case' matches no check" in done.stdout
    assert f"{SCHEDULES - COSINES + 1} failed" in summary(done)


def test_tests_are_selected_by_options_and_by_name(project):
    done = project(
        "--sbp-backend",
        REFERENCE,
        "--sbp-level",
        "surrogate",
        "--sbp-dtype",
        "float64",
        "-k",
        "tanh-ge",
        "-q",
    )
    assert done.returncode == 0
    assert summary(done).startswith("1 passed")
    done = project("--sbp-backend", REFERENCE, "--sbp-case", "loss-*far*", "--sbp-dtype", "float32", "--co", "-q")
    assert {line.partition("[")[2] for line in done.stdout.splitlines() if "::loss" in line} == {"eager-float32]"}


def test_names_that_match_everything_collect_nothing_twice(project):
    everything = ("-o", "python_files=*.py", "-o", "python_functions=*", "-o", "python_classes=*", "--doctest-modules")
    done = project("--sbp-backend", REFERENCE, "--sbp-level", "schedule", "-q", *everything)
    assert done.returncode == 0, done.stdout
    assert summary(done).startswith(f"{SCHEDULES + 1} passed")


def test_wrong_options_are_refused_before_anything_runs(project):
    for arguments, told in (
        ((), "name a backend: --sbp-backend torch, or package.module:factory"),
        (("--sbp-backend", REFERENCE, "--sbp-level", "network9"), "--sbp-level must be one of surrogate, neuron"),
        (("--sbp-backend", REFERENCE, "--sbp-expected-failures", "no.toml"), "no.toml"),
    ):
        done = project(*arguments)
        assert done.returncode == 4
        assert told in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_under_xdist_each_test_runs_once(project):
    pytest.importorskip("xdist", reason="not installed: pytest-xdist")
    done = project("--sbp-backend", REFERENCE, "--sbp-level", "schedule", "-n", "2", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SCHEDULES + 1} passed" in summary(done)


def test_a_project_that_does_not_ask_for_it_does_not_notice_it(project, tmp_path):
    (tmp_path / "check_mine.py").write_text(
        "def verify_one():\n    import sys\n    assert 'sbp_core' not in sys.modules\n"
    )
    done = project(
        "-q",
        "-c",
        os.devnull,
        "-o",
        "python_files=check_*.py",
        "-o",
        "python_functions=verify_*",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
        head=("-m", "pytest"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(done).startswith("1 passed")


def test_loading_the_plugin_loads_nothing_else_of_ours(project):
    code = """
        import sys, pytest
        before = set(sys.modules)
        import sbp_conformance.plugin
        print(sorted(set(sys.modules) - before))
    """
    done = project(head=("-c", textwrap.dedent(code)))
    assert done.stdout.strip() == "['sbp_conformance', 'sbp_conformance.plugin']"
