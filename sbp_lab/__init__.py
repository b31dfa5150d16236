"""The ``sbp`` command: data, training runs, comparisons, diagnosis and reports. It needs the extra ``lab``."""

from importlib.util import find_spec

from sbp_core.registry import missing_framework

for _package in ("cyclopts", "rich", "matplotlib", "sklearn", "tomli_w", "PIL"):
    if find_spec(_package) is None:
        raise missing_framework(_package, "lab", ModuleNotFoundError(name=_package))
