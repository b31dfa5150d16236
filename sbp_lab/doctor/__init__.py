"""What ``sbp doctor`` does: measures a network at its start or after some steps, and tries what might help."""

from sbp_lab.doctor.cure import Cure, Tried, cure, fix, try_each
from sbp_lab.doctor.examination import Case, Trial, examine, start, train
from sbp_lab.doctor.remedies import REMEDIES, Remedy, ranked

__all__ = [
    "REMEDIES",
    "Case",
    "Cure",
    "Remedy",
    "Trial",
    "Tried",
    "cure",
    "examine",
    "fix",
    "ranked",
    "start",
    "train",
    "try_each",
]
