"""Quiet TensorFlow, and a seed for whatever a test draws."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

SEED = 20261123


@pytest.fixture(autouse=True)
def _seeded():
    import keras

    keras.utils.set_random_seed(SEED)
