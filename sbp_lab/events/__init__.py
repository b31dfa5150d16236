"""Event cameras: recordings, the frames made of them, readers of their files, augmentations. See docs/events.md."""

from sbp_lab.events.aedat2 import DAVIS240, DAVIS346, DAVIS640, DVS128, Camera, read_aedat2
from sbp_lab.events.aedat3 import read_aedat3
from sbp_lab.events.augment import EventAugmentation, EventCutMix, EventDrop, EventFlip, EventRoll
from sbp_lab.events.bin import read_bin
from sbp_lab.events.events import Events
from sbp_lab.events.frames import Frames

__all__ = [
    "DAVIS240",
    "DAVIS346",
    "DAVIS640",
    "DVS128",
    "Camera",
    "EventAugmentation",
    "EventCutMix",
    "EventDrop",
    "EventFlip",
    "EventRoll",
    "Events",
    "Frames",
    "read_aedat2",
    "read_aedat3",
    "read_bin",
]
