"""Augmentations: random changes of training samples, as specs, in NumPy and Pillow."""

from sbp_lab.augment.auto import AutoAugment
from sbp_lab.augment.base import STAGES, Augmentation, BatchAugmentation, ImageAugmentation, Stage
from sbp_lab.augment.images import Crop, Cutout, Flip, ResizedCrop
from sbp_lab.augment.mixing import CutMix, MixUp

__all__ = [
    "STAGES",
    "Augmentation",
    "AutoAugment",
    "BatchAugmentation",
    "Crop",
    "CutMix",
    "Cutout",
    "Flip",
    "ImageAugmentation",
    "MixUp",
    "ResizedCrop",
    "Stage",
]
