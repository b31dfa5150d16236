"""A network trained step by step, for benchmarks that look at it on the way."""

import itertools

from sbp_lab import trainers
from sbp_lab.loader import Loader
from sbp_lab.training.setup import options_of


def stepped(case, source, steps):
    """Yield number, loss and trainer after each step, at the recipe's rate warmed up over a tenth of the steps."""
    recipe = case.recipe
    options = options_of(recipe, case.spec, events=False)
    trainer = trainers.load(recipe.backend).make_trainer(case.spec, case.weights, options)
    with Loader(source, batch_size=recipe.batch_size, seed=recipe.seed, size=recipe.size) as loader:
        batches = (batch for epoch in itertools.count(1) for batch in loader.epoch(epoch))
        for step, (images, labels) in zip(range(1, steps + 1), batches, strict=False):
            rate = recipe.learning_rate * min(1.0, step / (steps / 10))
            yield step, trainer.train_step(images, labels, 0.0, rate, step).loss, trainer


def accuracy(case, source, trainer, most=1000):
    """Return the share of the first test samples that it gets right."""
    right = seen = 0
    with Loader(source, batch_size=200, seed=0, size=case.recipe.size) as loader:
        for images, labels in loader.test():
            right += int((trainer.predict(images).argmax(-1) == labels).sum())
            seen += len(labels)
            if seen >= most:
                break
    return right / seen
