"""Data sets: where their files are read, checked and handed out sample by sample. See docs/data.md.

A data set is one module here, found by itself; yours registers itself with ``data_set`` when it is imported, or is
named as ``package.module:function``.
"""

import importlib
import pkgutil

from sbp_lab.data.fitting import fit
from sbp_lab.data.registry import DATASETS, Opener, data_set, open_data
from sbp_lab.data.source import ArraySplit, Figures, FileSplit, Sample, Source, Split

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DATASETS",
    "ArraySplit",
    "Figures",
    "FileSplit",
    "Opener",
    "Sample",
    "Source",
    "Split",
    "data_set",
    "fit",
    "open_data",
]
