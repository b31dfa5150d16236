"""Sizes of the networks of the zoo; prints docs/zoo.md's table. No framework is needed."""

from __future__ import annotations

from sbp_core.specs.networks import ZOO

SOURCES = {
    "resnet": "the paper's",
    "sew_resnet": "Fang et al. 2021",
    "ms_resnet": "Hu et al. 2021",
    "vgg": "Simonyan & Zisserman 2015",
    "spikformer": "Zhou et al. 2023",
    "qkformer": "Zhou et al. 2024",
    "sew_dvs": "Fang et al. 2021, 7B-Net, event frames",
    "mlp": "lessons",
    "convnet": "lessons",
    "resnet19": "Zheng et al. 2021",
    "resnet20": "He et al. 2016",
    "max_resnet18": "Fang et al. 2025",
    "vggsnn": "Deng et al. 2022, event frames",
    "dvs_gesture": "Fang et al. 2021, event frames",
}

if __name__ == "__main__":
    print("| name | source | parameters (classes) | input | multiply-accumulates a step | tapped |")
    print("|---|---|---|---|---|---|")
    for name, make in ZOO.items():
        large = "imagenet" in name or name.startswith(("sew_resnet", "ms_"))
        spec = make(num_classes=1000) if large else make()
        source = SOURCES.get(name) or SOURCES.get(spec.kind, "its file says")
        height, width = (extent or (224 if large else 32) for extent in spec.image_size)
        millions, operations = spec.parameter_count / 1e6, spec.operations((height, width)) / spec.time_steps / 1e6
        print(
            f"| `{name}` | {source} | {millions:.2f} M ({spec.num_classes}) | "
            f"{spec.in_channels} x {height} x {width} | {operations:,.1f} M | {', '.join(spec.default_taps)} |"
        )
