"""Draws docs/images/*.png from benchmarks/results/*.json."""

import json
import math
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
STYLES = {
    "three copies": ("black", "--", ""),
    "sbp": ("tab:blue", "-", "o"),
    "SpikingJelly": ("tab:orange", "-", "s"),
    "snnTorch": ("tab:green", "-", "^"),
    "Norse": ("tab:red", "-", "v"),
}


def growth(result, path):
    """Draw time against steps, batch and neurons."""
    kinds = list(dict.fromkeys(case["growing"] for case in result["cases"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.8), sharey=True, layout="constrained")
    for axis, kind in zip(axes, kinds, strict=True):
        cases = [case for case in result["cases"] if case["growing"] == kind]
        values = [case["value"] for case in cases]
        for name in cases[0]["seconds"]:
            colour, line, marker = STYLES[name]
            there = [case for case in cases if name in case["seconds"]]
            times = [1e3 * statistics.median(case["seconds"][name]) for case in there]
            axis.loglog(
                [case["value"] for case in there],
                times,
                color=colour,
                linestyle=line,
                marker=marker,
                markersize=4,
                label=name,
            )
        others = ", ".join(f"{name} {value}" for name, value in result["fixed"].items() if name != kind)
        axis.set_xlabel(f"{kind} ({others})")
        axis.set_xticks(values, [str(value) for value in values], minor=False, rotation=45)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("forward + backward (ms, median)")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"A LIF layer on a CPU, float32, threads: {result['machine']['threads']}")
    figure.savefig(path, dpi=130)


def family(result, path):
    """Draw every neuron as a multiple of three copies."""
    base = result["seconds"].pop("three copies")
    names = list(result["seconds"])
    ratios = [
        statistics.median(a / b for a, b in zip(values, base, strict=True)) for values in result["seconds"].values()
    ]
    figure, axis = plt.subplots(figsize=(7, 0.26 * len(names) + 1.2), layout="constrained")
    axis.barh(names[::-1], ratios[::-1], color="tab:blue")
    axis.axvline(1.0, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("forward + backward (multiple of three copies of its tensor, median)")
    axis.set_title(f"Every neuron and surrogate on a CPU, float32, {tuple(result['shape'])}", fontsize=10)
    figure.savefig(path, dpi=130)


TITLES = {
    "resnet68": "ResNet of 68 layers, T = 2",
    "vgg25": "plain VGG of 25 layers, T = 2",
    "tutorial": "12 convolutions and snnTorch's Leaky,\nno batch norm, T = 4",
}
COLOURS = {"default": "tab:grey", "identity": "tab:orange", "calibrated": "tab:blue"}


def deep_starts(result, path):
    """Draw loss and accuracy of deep networks from each start."""
    nets = list(dict.fromkeys(run["net"] for run in result["runs"]))
    figure, axes = plt.subplots(2, len(nets), figsize=(3.6 * len(nets), 5.2), sharey="row", layout="constrained")
    for column, net in enumerate(nets):
        for run in (run for run in result["runs"] if run["net"] == net):
            steps = range(result["every"], len(run["losses"]) + 1, result["every"])
            style = {"color": COLOURS[run["start"]], "label": run["start"] if run["seed"] == 0 else None}
            # one start is the other's where every layer fires as it is
            style |= {"linestyle": "--", "linewidth": 2.5} if run["start"] == "identity" else {}
            axes[0, column].plot(range(1, len(run["losses"]) + 1), run["losses"], **style)
            axes[1, column].plot(steps, [100 * accuracy for accuracy in run["accuracies"]], **style)
        axes[0, column].set_title(TITLES[net], fontsize=10)
        axes[1, column].axhline(10, color="black", linewidth=0.6, linestyle=":")
        axes[1, column].set_xlabel("steps of 64 digits")
    axes[0, 0].set_ylabel("training loss")
    axes[0, 0].set_ylim(0, 3.5)
    axes[1, 0].set_ylabel("test accuracy, %")
    axes[1, 0].set_ylim(0, 100)
    axes[1, 0].legend(title="start", fontsize=8)
    figure.savefig(path, dpi=130)


MARKERS = {18: "o", 34: "s", 68: "^"}


#: What is seen after 60 steps, of a row of early_agreement.json.
EARLY_FIGURES = {
    "agreement of gradients,\nmean over the layers": lambda row: statistics.fmean(row["agreement"]),
    "nearness of near inputs\nleft at the last layer": lambda row: row["kept"],
    "gradient of the first layer\nto that of the last": lambda row: row["gradient_ratio"],
    "how near to 1 that ratio is": lambda row: -abs(math.log(row["gradient_ratio"])),
    "test accuracy in %": lambda row: 100 * row["early_accuracy"],
}


def rank_correlation(rows, value):
    """Return Spearman's rank correlation of an early figure with the last accuracy."""
    return spearmanr([value(row) for row in rows], [row["accuracy"] for row in rows]).statistic


def told_apart(rows, value):
    """Return in which share of pairs the run that ends above 20 %, twice chance, has the higher figure of the two."""
    return roc_auc_score([row["accuracy"] > 0.2 for row in rows], [value(row) for row in rows])


def early_agreement(rows, path):
    """Draw the last accuracy against early figures."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    neurons = list(dict.fromkeys(row["neuron"] for row in rows))
    figures = {label: value for label, value in EARLY_FIGURES.items() if not label.startswith("how near")}
    figure, axes = plt.subplots(
        len(data), len(figures), figsize=(13, 3.2 * len(data)), sharey="row", layout="constrained"
    )
    for line, name in zip(axes, data, strict=True):
        for axis, (label, value) in zip(line, figures.items(), strict=True):
            there = [row for row in rows if row["data"] == name]
            for row in there:
                colour = f"C{neurons.index(row['neuron'])}"
                axis.scatter(value(row), 100 * row["accuracy"], color=colour, marker=MARKERS[row["layers"]], s=36)
            axis.set_title(f"{name}, {len(there)} runs: tells {100 * told_apart(there, value):.0f} % apart", fontsize=9)
            if label.startswith("gradient"):
                axis.set_xscale("log")
            axis.set_xlabel(f"{label}, after 60 steps")
            axis.grid(alpha=0.3)
        line[0].set_ylabel("test accuracy in %, after 200 steps")
    keys = [axis.scatter([], [], color=f"C{place}", label=name) for place, name in enumerate(neurons)]
    keys += [axis.scatter([], [], color="black", marker=mark, label=f"{n} layers") for n, mark in MARKERS.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=130)


PICTURES = {
    growth: "scaling_cpu",
    family: "neuron_family",
    deep_starts: "deep_starts",
    early_agreement: "early_agreement",
}


def main():
    IMAGES.mkdir(parents=True, exist_ok=True)
    for draw, name in PICTURES.items():
        source = RESULTS / f"{name}.json"
        if source.exists():
            draw(json.loads(source.read_text()), IMAGES / f"{name}.png")
            print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
