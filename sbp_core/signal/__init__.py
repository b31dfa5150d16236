"""Why a network does not learn: figures of its signal, forward and backward, and what they say in words.

The arithmetic is here, once, in NumPy. An adapter says what its neurons were given and what the gradients were
(:class:`Pass`); :func:`diagnose` does the rest.
"""

from sbp_core.signal.calibration import Calibration, StartOptions, calibrate, scaled
from sbp_core.signal.diagnosis import Diagnosis, NeuronFigures, Options, WeightFigures, diagnose, perturbed
from sbp_core.signal.identity import at_identity, identity_weights
from sbp_core.signal.passes import Firing, Met, Observe, ObserveMoved, Pass, fired, learnt
from sbp_core.signal.watch import EVERY, Look, Watch, WatchOptions

__all__ = [
    "EVERY",
    "Calibration",
    "Diagnosis",
    "Firing",
    "Look",
    "Met",
    "NeuronFigures",
    "Observe",
    "ObserveMoved",
    "Options",
    "Pass",
    "StartOptions",
    "Watch",
    "WatchOptions",
    "WeightFigures",
    "at_identity",
    "calibrate",
    "diagnose",
    "fired",
    "identity_weights",
    "learnt",
    "perturbed",
    "scaled",
]
