"""What ``sbp doctor`` does: measures a network at its start or after some steps, and tries what might help."""

from sbp_lab.doctor.examination import Case, Trial, examine, start, train
from sbp_lab.doctor.remedies import REMEDIES, Remedy, ranked

__all__ = ["REMEDIES", "Case", "Remedy", "Trial", "examine", "ranked", "start", "train"]
