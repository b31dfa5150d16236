"""Shortcuts on a SpikingJelly network in its multi-step mode; their loop stays as it is. scikit-learn's digits.

pip install spikingjelly scikit-learn; python examples/torch_spikingjelly.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.nn.functional import cross_entropy

import sbp_torch
from sbp_core import Evolutionary

EPOCHS, BATCH, STEPS = 8, 64, 4


def spiking():
    return neuron.LIFNode(surrogate_function=surrogate.ATan())


def main():
    torch.manual_seed(0)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)

    net = nn.Sequential(
        *(layer.Conv2d(1, 16, 3, padding=1, bias=False), layer.BatchNorm2d(16), spiking()),
        *(layer.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), layer.BatchNorm2d(32), spiking()),
        *(layer.Conv2d(32, 32, 3, stride=2, padding=1, bias=False), layer.BatchNorm2d(32), spiking()),
        *(layer.Flatten(), layer.Linear(32 * 2 * 2, 10)),
    )
    functional.set_step_mode(net, "m")  # (time, batch, ...) in and out

    def repeated(x):
        return x.expand(STEPS, -1, -1, -1, -1)

    # the taps are their neurons; the sample run leaves no state behind
    model = sbp_torch.Shortcut(net, taps=["2", "5"], num_classes=10, time_axis=0, sample=repeated(train_x[:1]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    steps = EPOCHS * (len(train_x) // BATCH)
    coefficient = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=steps))

    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(len(train_x)).split(BATCH)[: len(train_x) // BATCH]:
            logits = model(repeated(train_x[rows])).mean(0)  # the network gives logits of each step, and so does it
            loss = cross_entropy(logits, train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            coefficient.step()
            functional.reset_net(model)
        print(f"epoch {epoch}  coefficient {coefficient.last_value:.3f}  loss {loss:.3f}")

    net = model.strip().eval()  # their network again
    with torch.no_grad():
        accuracy = (net(repeated(test_x)).mean(0).argmax(1) == test_y).float().mean().item()
    print(f"test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
