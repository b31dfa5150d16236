"""A run on digits that takes a second."""

from sbp_lab.data import open_data
from sbp_lab.recipe import Recipe
from sbp_lab.training import train

SMALL = {
    "net": "convnet",
    "width": 4,
    "time_steps": 2,
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 0.02,
    "method": "vanilla",
}


def small_run(folder, **changes):
    recipe = Recipe(**SMALL | changes)
    train(recipe, folder, source=open_data("digits"))
    return folder
