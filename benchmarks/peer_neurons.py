"""The paper's neuron in the libraries that users know, each as its own users write it."""

import importlib.util

import torch


def spikingjelly():
    """Return SpikingJelly's node in its multi-step mode."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.LIFNode(tau=2.0, decay_input=False, surrogate_function=surrogate.Rect(), step_mode="m")

    def forward(x):
        functional.reset_net(node)
        return node(x)

    return forward


def snntorch():
    """Return snnTorch's neuron in the loop its users write; it has no rectangle, so its default surrogate."""
    import snntorch as snn

    node = snn.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False)

    def forward(x):
        memory, spikes = torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            spike, memory = node(current, memory)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward


def norse():
    """Return Norse's box cell in a loop over time."""
    from norse.torch import LIFBoxCell, LIFBoxParameters

    cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.as_tensor(500.0)))

    def forward(x):
        state, spikes = None, []
        for current in x.unbind(0):
            spike, state = cell(current, state)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward


PEERS = {"SpikingJelly": ("spikingjelly", spikingjelly), "snnTorch": ("snntorch", snntorch), "Norse": ("norse", norse)}


def installed():
    """Return the peers that are installed: a function of the input by name."""
    return {name: make() for name, (package, make) in PEERS.items() if importlib.util.find_spec(package) is not None}
