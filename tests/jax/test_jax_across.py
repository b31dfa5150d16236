"""A convolutional Shortcut trained in PyTorch goes on in JAX: the same logits, statistics and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import ResNetSpec
from sbp_core.reference.networks import initial_weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is the oracle here")

SPEC = ResNetSpec(depths=(1, 1), widths=(4, 6), in_channels=2, num_classes=5, time_steps=3)
RNG = np.random.default_rng(53)
IMAGES = RNG.normal(0.5, 1, (4, 2, 7, 6))
LABELS = np.array([0, 3, 4, 1])
COEFFICIENT = 0.75
TAPS = ("stem", "layer1")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def torch_step():
    """Return what PyTorch has before a training step, and finds in it, by canonical name."""
    import sbp_torch

    torch.manual_seed(0)
    model = sbp_torch.Shortcut(
        sbp_torch.ResNet(SPEC), TAPS, 5, sample=torch.rand(2, 2, 7, 6), branch="convolutional"
    ).double()
    sbp_torch.import_weights(model.main, initial_weights(SPEC, 3))
    with torch.no_grad():  # statistics and scales that a mix-up would betray
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.linspace(0.1, 0.4, len(tensor), dtype=tensor.dtype))
    before = sbp_torch.export_weights(model)
    model.set_coefficient(COEFFICIENT)
    model.train()
    logits = model(torch.as_tensor(IMAGES))
    loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(LABELS))
    loss.backward()
    after = sbp_torch.export_weights(model)
    with torch.no_grad():  # a model that holds the gradients in place of its weights exports them by name
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    gradients = sbp_torch.export_weights(model)
    return before, logits.detach().numpy(), after, gradients


def test_a_convolutional_shortcut_of_torch_computes_and_learns_the_same_here():
    before, logits, after, gradients = torch_step()
    names = {f"branches.{tap}.{part}" for tap in TAPS for part in ("conv.weight", "linear.weight", "linear.bias")}
    names |= {f"branches.{tap}.bn.{part}" for tap in TAPS for part in ("weight", "bias", "running_mean", "running_var")}
    assert {name for name in before if name.startswith("branches")} == names
    with jax.enable_x64(True):
        net = sbp_jax.ResNet(SPEC, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        model = sbp_jax.Shortcut(net, TAPS, 5, branch="convolutional", param_dtype=jnp.float64, rngs=nnx.Rngs(1))
        sbp_jax.import_weights(model, before)
        assert set(sbp_jax.export_weights(model)) == set(before)
        graph, parameters, rest = nnx.split(model, nnx.Param, ...)

        @jax.jit
        def step(parameters, rest):
            def loss(parameters):
                model = nnx.merge(graph, parameters, rest, copy=True)
                logits = model(jnp.asarray(np.moveaxis(IMAGES, 1, -1)), coefficient=COEFFICIENT)
                chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(LABELS)[:, None], 1)
                return -chosen.mean(), (logits, nnx.state(model, nnx.Not(nnx.Param)))

            return jax.grad(loss, has_aux=True)(parameters)

        found, (outputs, rest) = step(parameters, rest)
        np.testing.assert_allclose(outputs, logits, **EXACT)
        moved = sbp_jax.export_weights(nnx.merge(graph, parameters, rest))
        learnt = sbp_jax.export_weights(nnx.merge(graph, found, rest))
    statistics = [name for name in before if ".running_" in name]
    assert sum(name.startswith("branches") for name in statistics) == 4
    for name in statistics:
        np.testing.assert_allclose(moved[name], after[name], err_msg=name, **EXACT)
        assert np.abs(after[name] - before[name]).min() > 0
    for name in before.keys() - set(statistics):
        np.testing.assert_allclose(learnt[name], gradients[name], err_msg=name, **EXACT)
        if name.startswith("branches") and name.endswith("weight"):
            assert np.any(gradients[name])
