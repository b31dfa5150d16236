"""What docs/doctor.md says of the gradient's size: a ResNet-34 on digits from several starts, 60 steps each."""

from sbp_core import LIFSpec, Rectangle
from sbp_core.signal import identity_weights
from sbp_lab.data import open_data
from sbp_lab.doctor import Case, examine, start, train
from sbp_lab.recipe import Recipe

STEPS = 60
STARTS = {
    "as it is": (LIFSpec(surrogate=Rectangle(width=2.0)), 1.0),
    "threshold 0.5, height 0.5, width 2, residual 0.1": (
        LIFSpec(threshold=0.5, surrogate=Rectangle(height=0.5, width=2.0)),
        0.1,
    ),
    "threshold 0.5, height 1, width 1.5, residual 0.1": (
        LIFSpec(threshold=0.5, surrogate=Rectangle(height=1.0, width=1.5)),
        0.1,
    ),
}


def main() -> None:
    """Print a line a start and seed."""
    digits = open_data("digits")
    for seed in (0, 1):
        for name, (neuron, scale) in STARTS.items():
            recipe = Recipe(
                net="resnet34", width=8, time_steps=2, batch_size=64, method="vanilla", seed=seed, neuron=neuron
            )
            recipe, spec, weights = start(recipe, digits)
            case = Case(recipe, spec, identity_weights(spec, weights, residual=scale))
            first, *_, last = examine(case, digits, batches=2).neurons
            trial, _ = train(case, digits, steps=STEPS)
            print(
                f"seed {seed}, {name}: gradient at the first neurons {first.norm / last.norm:.2g} times that at the "
                f"last, kept there {last.kept:.2f}; loss {trial.loss:.2f}, accuracy {100 * trial.accuracy:.0f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
