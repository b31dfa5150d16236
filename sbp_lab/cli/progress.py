"""What a training tells, for a person: a bar that moves while it runs, and a line after each epoch."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from sbp_lab.record import Epoch
from sbp_lab.training import EpochDone, Event, Notice, Started, StepDone


class Told:
    """Shows the events of a training.

    Args:
        console: to show them on.

    Attributes:
        started: whether the first step was about to come.
    """

    def __init__(self, console: Console) -> None:
        self.started = False
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Started):
            self.started = True
            self._begin(event)
        elif isinstance(event, StepDone) and self._task is not None:
            left = "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"
            text = f"epoch {event.epoch}, loss {event.loss:.3f}, learning rate {event.learning_rate:.2g}"
            self._bar.update(self._task, completed=event.step, description=text, left=left)
        elif isinstance(event, EpochDone):
            self._console.print(line(event.epoch), soft_wrap=True, highlight=False)
        elif isinstance(event, Notice):
            self._console.print(f"Note: {escape(event.text)}", soft_wrap=True, highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _begin(self, event: Started) -> None:
        size = "" if event.parameters is None else f"{event.parameters:,} parameters; "
        before = f"; from step {event.step}" if event.step else ""
        text = f"{size}{event.total_steps} steps of {event.steps_per_epoch} an epoch; neurons: {event.neurons}{before}"
        self._console.print(text, soft_wrap=True, highlight=False)
        self._task = self._bar.add_task("", total=event.total_steps, completed=event.step, left="")
        self._bar.start()


def line(epoch: Epoch) -> str:
    """Return what a person reads of an epoch.

    Example:
        >>> line(Epoch(number=3, loss=0.5, accuracy=0.25, learning_rate=0.01))
        'epoch 3: loss 0.500, accuracy 25.0 %, learning rate 0.01'
    """
    told = [f"loss {epoch.loss:.3f}", f"accuracy {epoch.accuracy * 100:.1f} %"]
    if epoch.train_accuracy is not None:
        told.append(f"in training {epoch.train_accuracy * 100:.1f} %")
    if epoch.firing_rate is not None:
        told.append(f"firing rate {epoch.firing_rate * 100:.1f} %")
    if epoch.first_gradient is not None and epoch.last_gradient is not None:
        told.append(f"gradient {epoch.first_gradient:.2g} first, {epoch.last_gradient:.2g} last")
    if epoch.coefficient is not None:
        told.append(f"coefficient {epoch.coefficient:.2g}")
    if epoch.learning_rate is not None:
        told.append(f"learning rate {epoch.learning_rate:.2g}")
    if epoch.seconds is not None:
        told.append(duration(epoch.seconds))
    return f"epoch {epoch.number}: {', '.join(told)}"


def duration(seconds: float) -> str:
    """Return a time as a person says it.

    Example:
        >>> duration(4.2), duration(75), duration(7300)
        ('4 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
