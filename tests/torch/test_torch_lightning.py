"""The Lightning callback: the coefficient of each step, counted, accumulated and resumed."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import sbp_torch
from sbp_core import Constant, Evolutionary, ResNetSpec
from sbp_core.signal.watch import read

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
from sbp_torch.lightning import ShortcutCallback, WatchCallback  # noqa: E402

LIGHTNING = pytest.mark.matrix("sbp ResNet", "PyTorch", "Lightning")
SPEC = ResNetSpec(depths=(1, 1), widths=(2, 2), in_channels=1, num_classes=3, time_steps=1)
DATA = TensorDataset(torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.arange(12) % 3)


class Module(lightning.LightningModule):
    """Trains a shortcut and notes the coefficient of every batch."""

    def __init__(self, plain=False):
        super().__init__()
        net = sbp_torch.ResNet(SPEC)
        self.model = net if plain else sbp_torch.Shortcut(net, ["layer1"], 3)
        self.seen = []

    def training_step(self, batch, index):
        images, labels = batch
        self.seen.append(self.model.coefficient.item())
        return cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)


def fit(module, schedule, data=DATA, path=None, **arguments):
    arguments = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | arguments
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callbacks = [ShortcutCallback(schedule), *arguments.pop("callbacks", [])]
        trainer = lightning.Trainer(**arguments, **quiet, callbacks=callbacks)
        trainer.fit(module, DataLoader(data, 4), ckpt_path=path)
    return trainer


@LIGHTNING
def test_every_step_uses_the_schedule_of_its_number_and_all_steps_are_counted():
    module = Module()
    trainer = fit(module, Evolutionary(initial=0.6))
    np.testing.assert_allclose(module.seen, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-7)
    assert trainer.callback_metrics["coefficient"] == 0.0
    assert set(module.model.main.state_dict()) == set(sbp_torch.ResNet(SPEC).state_dict())


def test_what_the_schedule_states_itself_stays():
    module = Module()
    fit(module, Evolutionary(initial=1.0, total_steps=4))
    np.testing.assert_allclose(module.seen, [0.75, 0.5, 0.25, 0.0, 0.0, 0.0])


def test_batches_whose_gradients_are_accumulated_share_a_coefficient():
    # 3 batches an epoch: a step after 2, and one for the rest
    module = Module()
    fit(module, Evolutionary(initial=0.4), accumulate_grad_batches=2)
    np.testing.assert_allclose(module.seen, [0.3, 0.3, 0.2, 0.1, 0.1, 0.0], atol=1e-7)


def scheduled(*factors):
    return lightning.callbacks.GradientAccumulationScheduler(dict(enumerate(factors)))


def test_accumulation_that_changes_between_epochs_ends_where_the_algorithm_ends():
    # 3 steps in the first epoch, 2 in the second (2 batches and the rest), 1 in the third
    module = Module()
    fit(module, Evolutionary(initial=0.6), max_epochs=3, callbacks=[scheduled(1, 2, 3)])
    np.testing.assert_allclose(module.seen, [0.5, 0.4, 0.3, 0.2, 0.2, 0.1, 0.0, 0.0, 0.0], atol=1e-7)


def test_accumulation_that_changes_keeps_a_schedule_per_epoch_at_the_epochs():
    module = Module()
    fit(module, Evolutionary(initial=0.6, per="epoch"), max_epochs=3, callbacks=[scheduled(1, 2, 3)])
    np.testing.assert_allclose(module.seen, [0.4] * 3 + [0.2] * 3 + [0.0] * 3, atol=1e-7)


class Manual(Module):
    """Steps its optimizers, one for the network and one for the branches if two, every so many batches."""

    def __init__(self, optimizers=1, every=1):
        super().__init__()
        self.automatic_optimization = False
        self.number, self.every = optimizers, every

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.manual_backward(loss)
        if (index + 1) % self.every == 0:
            for optimizer in [self.optimizers()] if self.number == 1 else self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self):
        groups = [self.parameters()]
        if self.number == 2:
            groups = [self.model.main.parameters(), self.model.branches.parameters()]
        return [torch.optim.SGD(group, 0.01) for group in groups]


@pytest.mark.parametrize("optimizers", [1, 2])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_manual_optimization_ends_where_the_algorithm_ends(optimizers, every):
    module = Manual(optimizers, every)
    trainer = fit(module, Evolutionary(initial=0.6))
    assert trainer.global_step == optimizers * 2 * (3 // every)
    np.testing.assert_allclose(module.seen, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("optimizers", "every", "seen"),
    [
        (1, 1, [0.45, 0.3, 0.15, 0.0]),
        (2, 1, [0.3, 0.0]),
        (1, 3, [0.45] * 3 + [0.3] * 3 + [0.15] * 3 + [0.0] * 3),
    ],
)
def test_manual_optimization_that_a_limit_of_steps_ends_gets_there_too(optimizers, every, seen):
    module = Manual(optimizers, every)
    fit(module, Evolutionary(initial=0.6), max_steps=4, max_epochs=100)
    np.testing.assert_allclose(module.seen, seen, atol=1e-7)


def test_manual_optimization_resumes_where_it_stopped(tmp_path):
    schedule = Evolutionary(initial=0.6, total_steps=6)
    first, second = Manual(2, 3), Manual(2, 3)
    fit(first, schedule, max_epochs=1).save_checkpoint(tmp_path / "middle.ckpt")
    fit(second, schedule, path=tmp_path / "middle.ckpt")
    np.testing.assert_allclose(first.seen + second.seen, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], atol=1e-7)


def test_a_checkpoint_of_a_training_of_another_length_is_said_to_be(tmp_path):
    fit(Module(), Evolutionary(initial=0.6), max_epochs=1).save_checkpoint(tmp_path / "middle.ckpt")
    callback = ShortcutCallback(Evolutionary(initial=0.6))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=2, callbacks=[callback], enable_model_summary=False, **quiet)
    with pytest.warns(UserWarning, match="another schedule, total_steps=3 and not 6: it jumps"):
        trainer.fit(Module(), DataLoader(DATA, 4), ckpt_path=tmp_path / "middle.ckpt")


def test_a_schedule_per_epoch_learns_the_length_of_one():
    module = Module()
    fit(module, Evolutionary(initial=1.0, per="epoch"))
    np.testing.assert_allclose(module.seen, [0.5, 0.5, 0.5, 0.0, 0.0, 0.0])


@LIGHTNING
def test_training_resumes_exactly_from_a_checkpoint(tmp_path):
    schedule = Evolutionary(initial=0.6, total_steps=6)
    modules = []
    for _ in range(3):
        lightning.seed_everything(1, verbose=False)
        modules.append(Module())
    whole, first, second = modules
    fit(whole, schedule)
    trainer = fit(first, schedule, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "middle.ckpt")
    with torch.no_grad():
        second.model.main.head.weight.zero_()
    fit(second, schedule, path=tmp_path / "middle.ckpt")
    assert first.seen + second.seen == whole.seen
    for name, tensor in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


class Endless(IterableDataset):
    def __iter__(self):
        return iter([DATA[index] for index in range(8)])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ShortcutCallback(0.25), TypeError, "schedule must be a Schedule, got 0.25"),
        (lambda: fit(Module(plain=True), Constant()), ValueError, "hold a Shortcut, got a Module without one"),
        (lambda: fit(Module(), Evolutionary(), Endless()), ValueError, "pass total_steps to the schedule.*max_steps"),
        (
            lambda: fit(Module(), Evolutionary(per="epoch"), Endless(), max_steps=2),
            ValueError,
            "pass steps_per_epoch to the schedule",
        ),
    ],
)
def test_what_is_wrong_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_data_without_length_trains_with_a_limit_of_steps():
    module = Module()
    fit(module, Evolutionary(initial=0.4), Endless(), max_steps=2, max_epochs=None)
    np.testing.assert_allclose(module.seen, [0.2, 0.0], atol=1e-7)


def test_without_lightning_the_error_says_what_to_install():
    code = "import sys; sys.modules['lightning'] = None\nimport sbp_torch\nimport sbp_torch.lightning"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert 'Lightning is not installed; in a checkout of sbp: pip install ".[lightning]"' in result.stderr


def test_importing_sbp_torch_does_not_import_lightning():
    code = "import sys, sbp_torch; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


@LIGHTNING
def test_a_module_that_is_watched_ends_in_the_same_bits_and_its_loggers_have_the_figures(tmp_path):
    batches = [(DATA[:4][0], DATA[:4][1]), (DATA[4:8][0], DATA[4:8][1])]
    states, logger = [], lightning.loggers.CSVLogger(tmp_path)
    for watching in (False, True):
        torch.manual_seed(0)
        module = Module()
        watch = WatchCallback(batches, every=3, folder=tmp_path)
        fit(module, Evolutionary(initial=0.6), callbacks=[watch] if watching else [], logger=logger)
        states.append(module.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert [line["step"] for line in read(tmp_path)] == [1, 3, 6]
    logger.save()
    assert "agreement/main.stem.conv" in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    again = WatchCallback(batches)
    again.load_state_dict(watch.state_dict())
    assert again.state_dict()["step"] == 6
