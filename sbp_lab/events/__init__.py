"""Event cameras: recordings, the frames made of them, readers of their files, augmentations."""

from sbp_lab.events.events import Events
from sbp_lab.events.frames import Frames

__all__ = ["Events", "Frames"]
