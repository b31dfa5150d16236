"""Augmentations: random changes of training samples, as specs, in NumPy and Pillow."""

from sbp_lab.augment.base import STAGES, Augmentation, BatchAugmentation, ImageAugmentation, Stage

__all__ = ["STAGES", "Augmentation", "BatchAugmentation", "ImageAugmentation", "Stage"]
