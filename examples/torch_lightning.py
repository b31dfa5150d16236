"""Shortcut training under a Lightning trainer, by a callback. scikit-learn's digits.

pip install lightning scikit-learn; python examples/torch_lightning.py
"""

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import sbp_torch
from sbp_core import Evolutionary, ResNetSpec
from sbp_torch.lightning import ShortcutCallback


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        net = sbp_torch.ResNet(ResNetSpec(depths=(1, 1, 1), widths=(8, 16, 32), in_channels=1, time_steps=4))
        self.model = sbp_torch.Shortcut(net, taps=["layer1", "layer2"], num_classes=10)

    def training_step(self, batch, index):
        images, labels = batch
        return cross_entropy(self.model(images), labels)

    def validation_step(self, batch, index):
        images, labels = batch
        accuracy = (self.model(images).argmax(1) == labels).float().mean()  # the main branch alone
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.02)


def main():
    lightning.seed_everything(0, verbose=False)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)
    train = DataLoader(TensorDataset(train_x, train_y), 64, shuffle=True, drop_last=True)
    test = DataLoader(TensorDataset(test_x, test_y), 360)

    module = Digits()
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[ShortcutCallback(Evolutionary(initial=0.25))],  # all steps counted by the trainer
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train, test)
    metrics = trainer.callback_metrics
    print(f"coefficient {metrics['coefficient']:.3f}  test accuracy {metrics['accuracy']:.1%}")
    module.model.strip()


if __name__ == "__main__":
    main()
