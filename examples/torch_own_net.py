"""A network of your own with shortcuts: any nn.Module, tapped by the names of its modules. scikit-learn's digits.

python examples/torch_own_net.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

import sbp_torch
from sbp_core import Evolutionary

EPOCHS, BATCH, STEPS = 8, 64, 4


class Net(nn.Module):
    """Three convolutions, each with a spiking neuron. It knows nothing of shortcuts."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.conv2 = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32))
        self.conv3 = nn.Sequential(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32))
        self.lif1, self.lif2, self.lif3 = (sbp_torch.LIF(surrogate="triangle") for _ in range(3))
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images):
        x = self.lif1(self.conv1(images).expand(STEPS, -1, -1, -1, -1))
        x = self.lif2(each_step(self.conv2, x))
        x = self.lif3(each_step(self.conv3, x))
        return self.head(x.flatten(2)).mean(0)


def each_step(layer, x):
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def main():
    torch.manual_seed(0)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)

    net = Net()
    model = sbp_torch.Shortcut(net, taps=["lif1", "lif2"], num_classes=10, time_axis=0, sample=train_x[:1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    steps = EPOCHS * (len(train_x) // BATCH)
    coefficient = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=steps))

    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(len(train_x)).split(BATCH)[: len(train_x) // BATCH]:
            loss = cross_entropy(model(train_x[rows]), train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            coefficient.step()
        print(f"epoch {epoch}  coefficient {coefficient.last_value:.3f}  loss {loss:.3f}")

    net = model.strip().eval()  # your own network again
    with torch.no_grad():
        accuracy = (net(test_x).argmax(1) == test_y).float().mean().item()
    print(f"test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
