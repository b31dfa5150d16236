"""The study of docs/results.md: methods, networks and data on equal terms.

    PYTHONPATH=. python benchmarks/study.py run digits runs/study     # hours; goes on after an interrupt
    python benchmarks/study.py collect runs/study                     # into benchmarks/results/study.json
    python benchmarks/study.py tables                                 # what docs/results.md shows
    python benchmarks/study.py pictures                               # docs/images/study_*.png

Data lie where SBP_DATA says. Each stage is one ``sbp compare``, which prints as it starts.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from record import RESULTS

from sbp_lab.files import write_bytes
from sbp_lab.plots import COLOURS, OTHERS
from sbp_lab.record import Run
from sbp_lab.results import paired
from sbp_lab.tables import difference

FILE = RESULTS / "study.json"
STEPS = RESULTS / "method_step.json"
METHODS = Path(__file__).parent / "study_methods"
OWN = {path.stem: path for path in sorted(METHODS.glob("*.toml"))}
#: Recipe of each data set, and what it is changed by.
RECIPES = {
    "digits": ("digits",),
    "fashion": ("study-fashion-mnist",),
    "cifar10": ("study-cifar10",),
    "nmnist": ("study-nmnist",),
    "digits-60": ("digits", "--epochs", "60"),
}
LONG = "digits-60"
#: Each remedy by itself, then several together.
REMEDIES = [
    *("vanilla", "shortcut", "evolutionary", "losses", "following", "distilled"),
    *("reliable", "tet", "staged", "strong-to-weak", "weak-to-strong", "right-to-wrong"),
    *("plif", "clif", "imp", "mp-init", "mpd-agl", "detached", "tdbn", "tebn"),
    *("identity", "calibrated", "sew", "ms", "max", "deep"),
    *("evolutionary+calibrated", "evolutionary+sew", "losses+sew", "evolutionary+ms", "losses+ms"),
    *("sew+calibrated", "max+calibrated"),
]
NEURONS = [
    f"{method}{neuron}"
    for neuron in ("", "-paper-neuron", "-authors-neuron", "-triangle-neuron")
    for method in ("vanilla", "evolutionary")
]
COEFFICIENTS = [
    *("vanilla", "evolutionary-0_05", "evolutionary", "evolutionary-0_5", "evolutionary-1", "evolutionary-2"),
    *("cosine-0_25", "constant-0_25", "one-tap", "last-tap"),
    *("losses", "following-agreement-20", "following-share-20"),
]


class Stage(NamedTuple):
    """Runs of one comparison: every method with every network and seed."""

    methods: tuple[str, ...]
    nets: tuple[str, ...] = ("resnet34",)
    seeds: str = "3"


OURS = "deep"
#: What every data set has, on every net.
MAIN = ("vanilla", "evolutionary", OURS)
#: Where ours was chosen.
CHOSEN_ON = ("digits", "fashion")


_DEPTHS = Stage(MAIN, ("resnet18", "resnet34"))
_SIXTY_EIGHT = Stage(MAIN, ("resnet68",))
STAGES: dict[str, tuple[Stage, ...]] = {
    "digits": (
        Stage(tuple(REMEDIES), seeds="1"),
        _DEPTHS,
        Stage(tuple(COEFFICIENTS)),
        _SIXTY_EIGHT,
        Stage(tuple(REMEDIES), seeds="2"),
        Stage(tuple(NEURONS), seeds="2"),
    ),
    "fashion": (Stage(tuple(REMEDIES), seeds="1"), _DEPTHS, _SIXTY_EIGHT),
    "cifar10": (_DEPTHS,),
    "nmnist": (_DEPTHS,),
    LONG: (_DEPTHS,),
}


def chosen(stage: Stage) -> list[str]:
    """Return what ``sbp compare`` is told of a stage."""
    methods = ",".join(str(OWN[name].relative_to(Path.cwd())) if name in OWN else name for name in stage.methods)
    return ["--methods", methods, "--net", ",".join(stage.nets), "--seeds", stage.seeds]


def run(data: str, folder: Path, jobs: int) -> None:
    """Make the runs of a data set that are missing."""
    place = folder / data
    for stage in STAGES[data]:
        start = (
            ["--resume", str(place)] if (place / "results.json").is_file() else [*RECIPES[data], "--out", str(place)]
        )
        words = ["compare", *start, *chosen(stage)]
        print("sbp", *words, flush=True)
        sbp = [sys.executable, "-c", "from sbp_lab.cli import app; app()"]
        subprocess.run([*sbp, *words, "--jobs", str(jobs)], check=True)


def collect(folder: Path) -> None:
    """Write every finished run: its cell, its curve, its time."""
    found, ran = [], {}
    for data in RECIPES:
        for path in sorted((folder / data / "runs").rglob("results.json")):
            each = Run.read(path.parent)
            if each.complete:
                found.append(_row(data, path, each))
                ran = {"versions": dict(each.versions), "machine": dict(each.machine)}
    lines = ",\n".join(json.dumps(row) for row in found)
    write_bytes(FILE, f'{json.dumps(ran)[:-1]}, "runs": [\n{lines}\n]}}\n'.encode())
    print(f"{len(found)} runs")


def _row(data: str, path: Path, each: Run) -> dict[str, object]:
    def curve(name: str) -> list[float | None]:
        values = [getattr(epoch, name) for epoch in each.epochs]
        return [None if value is None else float(f"{value:.4g}") for value in values]

    return {
        "data": data,
        "net": each.recipe.net,
        "method": path.parts[-3],
        "seed": each.recipe.seed,
        "step_ms": round(each.step_ms, 1),
        "seconds": round(each.seconds),
        "accuracy": curve("accuracy"),
        "loss": curve("loss"),
        "first_gradient": curve("first_gradient"),
        "last_gradient": curve("last_gradient"),
    }


def load() -> list[dict]:
    """Return the collected runs."""
    return json.loads(FILE.read_text())["runs"]


def step_costs() -> dict[str, float]:
    """Return what method_step.py measured: the median ratio of a method's step to vanilla's."""
    return {method: ratios[1] for method, ratios in json.loads(STEPS.read_text())["ratios"].items()}


def last(rows: list[dict], data: str, net: str, method: str) -> dict[int, float]:
    """Return the accuracy after the last epoch by seed."""
    return {
        row["seed"]: row["accuracy"][-1]
        for row in rows
        if (row["data"], row["net"], row["method"]) == (data, net, method)
    }


def spread(values: dict[int, float]) -> str:
    """Return mean and sample deviation in percent, and how many seeds where they are not three."""
    if not values:
        return ""
    found = [100 * value for value in values.values()]
    deviation = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    count = "" if len(found) == 3 else f" ({len(found)})"
    return f"{statistics.fmean(found):.1f}{deviation}{count}"


def less(values: dict[int, float], base: dict[int, float]) -> str:
    """Return the paired difference at the seeds that both have, in points, with its interval."""
    both = sorted(values.keys() & base.keys())
    found = paired([values[seed] for seed in both], [base[seed] for seed in both]) if both else None
    return difference(found).replace("\n", " ")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Return a table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main_table(rows: list[dict]) -> str:
    """Return the contest: vanilla, the paper's and ours, by data and depth."""
    head = ["data", "net", *MAIN, f"{OURS} less evolutionary", "evolutionary less vanilla"]
    lines = []
    for data in TITLES:
        for net in ("resnet18", "resnet34", "resnet68"):
            vanilla, evolutionary, ours = found = [last(rows, data, net, method) for method in MAIN]
            if any(found):
                differences = less(ours, evolutionary), less(evolutionary, vanilla)
                lines.append([data, net, *map(spread, found), *differences])
    return markdown(head, lines)


def depth_table(rows: list[dict]) -> str:
    """Return what the deeper net gains with each method."""
    head = ["ResNet-34 less ResNet-18", *MAIN]
    lines = []
    for data in TITLES:
        pairs = [(last(rows, data, "resnet34", method), last(rows, data, "resnet18", method)) for method in MAIN]
        if any(shallow for _, shallow in pairs):
            lines.append([data, *(less(*pair) for pair in pairs)])
    return markdown(head, lines)


def method_table(rows: list[dict], methods: list[str], data: tuple[str, ...], costs: dict[str, float]) -> str:
    """Return every method's accuracy with ResNet-34, how large its first layer's gradient was, and a step's cost."""
    ratio = "first / last layer's gradient, epoch 1"
    head = ["method", *(f"{each}, %" for each in data), *(f"{ratio}, {each}" for each in data)]
    head += ["a step's time, vanilla's = 1"] if costs else []
    lines = []
    for method in methods:
        found = [last(rows, each, "resnet34", method) for each in data]
        if any(found):
            ratios = [_ratio(rows, each, "resnet34", method) for each in data]
            sizes = ["" if value is None else f"{float(f'{value:.2g}'):g}" for value in ratios]
            cost = [f"{costs[method]:.2f}"] if costs else []
            lines.append([f"`{method}`", *map(spread, found), *sizes, *cost])
    return markdown(head, lines)


def length_table(rows: list[dict]) -> str:
    """Return what training three times as long does, on digits, and the best epoch on the way."""
    head = ["net", "method", "20 epochs", "60 epochs", "60 less 20", "60 epochs, best on the way"]
    lines = []
    for net in ("resnet18", "resnet34"):
        for method in MAIN:
            short, long = (last(rows, data, net, method) for data in ("digits", LONG))
            best = {
                row["seed"]: max(row["accuracy"])
                for row in rows
                if (row["data"], row["net"], row["method"]) == (LONG, net, method)
            }
            if long:
                lines.append([net, f"`{method}`", spread(short), spread(long), less(long, short), spread(best)])
    return markdown(head, lines)


def _ratio(rows: list[dict], data: str, net: str, method: str) -> float | None:
    found = [
        row["first_gradient"][0] / row["last_gradient"][0]
        for row in rows
        if (row["data"], row["net"], row["method"]) == (data, net, method)
    ]
    return statistics.median(found) if found else None


def size_line(rows: list[dict]) -> str:
    """Return how well the size of the first layer's gradient tells which remedy will be good."""
    from scipy.stats import spearmanr

    told_by = []
    for data in CHOSEN_ON:
        pairs = [
            (_ratio(rows, data, "resnet34", method), statistics.fmean(last(rows, data, "resnet34", method).values()))
            for method in REMEDIES
            if last(rows, data, "resnet34", method)
        ]
        told_by.append(f"{spearmanr(*zip(*pairs, strict=True)).statistic:.2f} on {data} ({len(pairs)} methods)")
    return f"Rank correlation of that ratio with the accuracy: {', '.join(told_by)}."


def pictures(rows: list[dict]) -> None:
    """Draw accuracy against depth, and over the epochs of ResNet-34."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = COLOURS | {OURS: OTHERS[0]}
    images = Path(__file__).parent.parent / "docs" / "images"
    there = [data for data in TITLES if last(rows, data, "resnet34", OURS)]
    for name, draw in (("study_depth", _depth), ("study_curves", _curves)):
        figure, axes = plt.subplots(1, len(there), figsize=(3.4 * len(there), 3.4), layout="constrained", squeeze=False)
        for axis, data in zip(axes[0], there, strict=True):
            for method in MAIN:
                draw(axis, rows, data, method, colours[method])
            axis.set_title(TITLES[data])
            axis.set_ylim(0, 100)
            axis.grid(alpha=0.3)
        axes[0][0].set_ylabel("test accuracy, last epoch (%)" if draw is _depth else "test accuracy (%)")
        axes[0][0].legend(fontsize=8)
        figure.suptitle("Narrow ResNets" if draw is _depth else "Narrow ResNet-34, three seeds each", fontsize=11)
        figure.savefig(images / f"{name}.png", dpi=120)


TITLES = {
    "digits": "digits",
    "fashion": "Fashion-MNIST, a part",
    "cifar10": "CIFAR-10, a part",
    "nmnist": "N-MNIST, a part",
}


def _depth(axis, rows, data, method, colour):
    nets = [net for net in ("resnet18", "resnet34", "resnet68") if last(rows, data, net, method)]
    depths = [int(net.removeprefix("resnet")) for net in nets]
    values = [[100 * value for value in last(rows, data, net, method).values()] for net in nets]
    axis.plot(depths, [statistics.fmean(each) for each in values], color=colour, label=method)
    for depth, each in zip(depths, values, strict=True):
        axis.plot([depth] * len(each), each, "o", color=colour, markersize=3.5, alpha=0.6)
    axis.set_xticks(depths)
    axis.set_xlabel("layers")


def _curves(axis, rows, data, method, colour):
    label = method
    for row in rows:
        if (row["data"], row["net"], row["method"]) == (data, "resnet34", method):
            curve = [100 * value for value in row["accuracy"]]
            axis.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=1.2, label=label)
            label = None
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("epoch")


def tables(rows: list[dict]) -> list[str]:
    """Return the tables of docs/results.md, in its order."""
    return [
        main_table(rows),
        depth_table(rows),
        method_table(rows, REMEDIES, CHOSEN_ON, step_costs()),
        size_line(rows),
        method_table(rows, NEURONS, ("digits",), {}),
        method_table(rows, COEFFICIENTS, ("digits",), {}),
        length_table(rows),
    ]


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "collect", "tables", "pictures"))
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.what == "run":
        run(given.words[0], Path(given.words[1]), given.jobs)
    elif given.what == "collect":
        collect(Path(given.words[0]))
    elif given.what == "tables":
        print(*tables(load()), sep="\n\n")
    else:
        pictures(load())


if __name__ == "__main__":
    main()
