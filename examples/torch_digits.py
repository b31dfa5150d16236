"""Train a small spiking ResNet on scikit-learn's digits with shortcut back-propagation, in PyTorch.

python examples/torch_digits.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import sbp_torch
from sbp_core import Evolutionary, ResNetSpec

EPOCHS, BATCH = 5, 64


def load():
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)
    return DataLoader(TensorDataset(train_x, train_y), BATCH, shuffle=True, drop_last=True), test_x, test_y


def main():
    torch.manual_seed(0)
    loader, test_images, test_labels = load()
    net = sbp_torch.ResNet(ResNetSpec(depths=(1, 1, 1), widths=(8, 16, 32), in_channels=1, time_steps=4))
    model = sbp_torch.Shortcut(net, taps=["layer1", "layer2"], num_classes=10)

    steps = EPOCHS * len(loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.02)
    learning_rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    coefficient = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=steps))

    for epoch in range(1, EPOCHS + 1):
        model.train()
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            learning_rate.step()
            coefficient.step()
        model.eval()  # from here on the main branch alone
        with torch.no_grad():
            accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
        print(f"epoch {epoch}  coefficient {coefficient.last_value:.3f}  loss {loss:.3f}  accuracy {accuracy:.1%}")

    model.strip()  # net is your own network again, without hooks or branches
    return accuracy


if __name__ == "__main__":
    main()
