"""Why a network does not learn: figures of its signal, forward and backward, and what they say in words.

The arithmetic is here, once, in NumPy. An adapter says what its neurons were given and what the gradients were
(:class:`Pass`); :func:`diagnose` does the rest.
"""

from sbp_core.signal.diagnosis import Diagnosis, NeuronFigures, WeightFigures, diagnose, perturbed
from sbp_core.signal.passes import Firing, Observe, Pass, fired

__all__ = [
    "Diagnosis",
    "Firing",
    "NeuronFigures",
    "Observe",
    "Pass",
    "WeightFigures",
    "diagnose",
    "fired",
    "perturbed",
]
