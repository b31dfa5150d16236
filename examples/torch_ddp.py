"""Two processes, each with half of every batch, under DistributedDataParallel. scikit-learn's digits.

torchrun --standalone --nproc-per-node 2 examples/torch_ddp.py
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import sbp_torch
from sbp_core import Evolutionary, ResNetSpec

EPOCHS, BATCH = 5, 64


def train():
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same network and branches everywhere
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0)
    data = TensorDataset(train_x, train_y)
    sampler = DistributedSampler(data, drop_last=True)
    loader = DataLoader(data, BATCH // processes, sampler=sampler, drop_last=True)

    net = sbp_torch.ResNet(ResNetSpec(depths=(1, 1, 1), widths=(8, 16, 32), in_channels=1, time_steps=4))
    model = DistributedDataParallel(sbp_torch.Shortcut(net, taps=["layer1", "layer2"], num_classes=10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.02)
    steps = EPOCHS * len(loader)
    coefficient = sbp_torch.CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=steps))

    for epoch in range(1, EPOCHS + 1):
        sampler.set_epoch(epoch)
        model.train()
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # the branches' gradients are averaged over the processes too, at coefficient 0 as well
            optimizer.step()
            coefficient.step()
        if rank == 0:
            print(f"epoch {epoch}  coefficient {coefficient.last_value:.3f}  loss {loss:.3f}", flush=True)

    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    everywhere = [torch.empty_like(weights) for _ in range(processes)]
    dist.all_gather(everywhere, weights)
    if not all(torch.equal(weights, other) for other in everywhere):
        raise SystemExit("the processes ended with different weights")
    if rank == 0:
        net = model.module.strip().eval()
        with torch.no_grad():
            accuracy = (net(test_x).argmax(1) == test_y).float().mean().item()
        print(f"{processes} processes, the same weights in each; test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()  # a function of its own: the model goes before the process group, or its end may wait for itself
    dist.barrier()
    dist.destroy_process_group()
