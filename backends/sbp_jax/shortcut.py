"""Shortcut back-propagation round a network of the user's own: branches while training, the bare network otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits
from sbp_core.selection import Select, check_select, of_each, part, replaced
from sbp_core.specs.shortcut import Combine, ShortcutSpec
from sbp_core.taps import Channels, Main, TapLayout, TimeAxis, resolve_time_axis
from sbp_jax.branches import Branch, check_branch, make_branch
from sbp_jax.coefficient import scalar
from sbp_jax.neurons import LIF
from sbp_jax.taps import Path, arrange, as_main, call_tapped, gather, module_names, shapes


@runtime_checkable
class Tappable(Protocol):
    """What a network may offer so that it can be tapped at more than its modules: it returns what it is asked for.

    ``net(images)`` is the logits, ``(batch, classes)``; ``net(images, taps=("layer1",))`` is ``(logits, tapped)``, with
    each tapped block's output over time, ``(time, batch, ..., channels)``, by name. ``tapped`` may hold more than was
    asked for; what is not used costs nothing under ``jit``.

    Example:
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.layer1, self.head = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 10, rngs=rngs)
        ...
        ...     def __call__(self, images, *, taps=None):
        ...         x = self.layer1(images)
        ...         logits = self.head(x).mean(0)
        ...         return logits if taps is None else (logits, {"layer1": x})
        >>> sample = jnp.ones((4, 1, 8))
        >>> model = Shortcut(Net(nnx.Rngs(0)), ("layer1",), 10, time_axis=0, sample=sample, rngs=nnx.Rngs(1))
        >>> model(sample, coefficient=0.25).shape
        (1, 10)
    """

    def __call__(self, images: Any, *, taps: Any = None) -> Any:
        """Return the logits; with ``taps``, also a dictionary of block outputs."""
        ...


Net = TypeVar("Net", bound=nnx.Module)

_WHAT_TO_IMPLEMENT = (
    "a network to be tapped takes taps=None, and with taps=('block', ...) returns (logits, {'block': its output, "
    "(time, batch, ..., channels)}); see sbp_jax.Tappable"
)


class Shortcut(nnx.Module, Generic[Net]):
    """A network with shortcut branches (Guo et al. 2024, section 4), each global average pooling and a linear layer.

    In training, ``combine="logits"`` gives ``o_final = b_n(x) + coefficient * sum_l b_l(x)`` (Eq. 6-10) and
    ``"losses"`` gives ``ShortcutOutput(main, branches)``. After ``model.eval()``, or in ``nnx.view(model,
    deterministic=True, use_running_average=True)``, it gives ``b_n(x)`` and runs no branch.

    A tap is the path of a module with dots, ``"layer2.1"`` or ``"blocks.0"`` (:func:`sbp_jax.taps.module_names`). It is
    looked up in every call, so that an adapter put in the module's place is tapped with what it adds; a path that leads
    to no module any more is an error. A network that takes ``taps`` itself, as :class:`Tappable` says, is asked instead
    for the names in its ``spec.tap_channels``, or for all of them where it states none. Under ``jit``, ``grad``,
    ``vmap``, ``lax.scan`` over steps and ``remat`` of the model every tap works; in a network that itself transforms a
    tapped block, ``nnx.remat`` with the block as an argument does. For Equinox, Linen and functions:
    :mod:`sbp_jax.branches`.

    Where an argument holds for each tap, give one value for all of them, or a mapping from tap to value.

    Args:
        net: an nnx module that gives logits, ``(batch, num_classes)``, or those of each step with the axis of time
            where the taps have it; the branches then give those of each step too. It is not edited: ``model.main`` and
            ``model.strip()`` are the very same object.
        taps: names of the blocks to tap.
        num_classes: outputs of the network and of each branch.
        combine: "logits" or "losses".
        time_axis: where time is in the tapped outputs: 0, ``(time, batch, ..., channels)``; 1, ``(batch, time, ...,
            channels)``; None for no time; "calls" if a tapped module is called once for each step, with ``(batch, ...,
            channels)``; "merged", ``(time * batch, ..., channels)``, with ``time_steps``. "stated" takes
            ``net.time_axis`` or ``net.spec.time_axis``, or 0 where neurons of this package are in the network; a
            network that says nothing needs the argument.
        channels: of each tap: "last"; "first", before the axes of space; or an axis. What is left, any number of axes,
            is space, or tokens.
        branch: of each tap: "linear"; "convolutional" (:class:`~sbp_jax.branches.ConvolutionalBranch`); or a function
            ``(channels, num_classes, *, rngs)`` that returns an nnx module of your own, from ``(time, batch, ...,
            channels)`` to logits at each step, ``(time, batch, num_classes)``.
        sample: an input of the network to find the branches' sizes with, by shape alone: an array, a tuple of all
            inputs, a mapping of keywords, or ``(inputs, keywords)``, a tuple and a mapping. Flags stay static. Not
            needed where ``net.spec.tap_channels`` says the sizes.
        time_steps: how many steps are merged.
        select: of each tap: which part of the module's output is meant, an index, a key, or a function that gives the
            array; None if the output is an array.
        output: which part of the network's output is the logits, an index or a key; training returns the output with
            that part replaced.
        dtype: dtype of the branches' computation; None to follow from what they tap.
        param_dtype: dtype of the branches' parameters.
        rngs: random keys of the branches' initial weights.

    Raises:
        ValueError: a tap that does not exist (the message suggests near names), sizes that are not known and no sample,
            no time axis, a bad argument, or a tapped output or logits whose shape does not fit.
        TypeError: a network that is no nnx module or has nothing to tap, or that is a Shortcut already; a tap or logits
            that are no array.
        RuntimeError: a tapped module that did not run, ran twice, or whose output cannot be reached.

    Example:
        >>> net = nnx.Sequential(nnx.Linear(6, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 10, rngs=nnx.Rngs(1)))
        >>> images = jnp.ones((2, 6))
        >>> model = Shortcut(net, taps=("0",), num_classes=10, time_axis=None, sample=images, rngs=nnx.Rngs(2))
        >>> model(images, coefficient=0.25).shape
        (2, 10)
        >>> model.strip() is net
        True
    """

    def __init__(
        self,
        net: Net,
        taps: Sequence[str],
        num_classes: int = 10,
        combine: Combine = "logits",
        *,
        time_axis: TimeAxis | Literal["stated"] = "stated",
        channels: Channels | Mapping[str, Channels] = "last",
        branch: Branch | Mapping[str, Branch] = "linear",
        sample: Any = None,
        time_steps: int | None = None,
        select: Select | Mapping[str, Select] = None,
        output: int | str | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(net, nnx.Module):
            raise TypeError(
                f"net must be an nnx.Module, got {type(net).__name__}; "
                "for Equinox, Linen and plain functions use sbp_jax.branches"
            )
        if isinstance(net, Shortcut):
            raise TypeError("net must not be a Shortcut: it has its branches already; wrap net.main with all the taps")
        self.spec = ShortcutSpec(taps=cast(tuple[str, ...], taps), combine=combine)
        self.num_classes = validation.count("num_classes", num_classes)
        self._explicit, self._paths = _find(net, self.spec)
        self.time_axis: TimeAxis = resolve_time_axis(time_axis, _stated(net), type(net).__name__, channels="last")
        places = of_each("channels", channels, self.spec.taps, "last")
        self._layouts = tuple(
            TapLayout(time_axis=self.time_axis, channels=places[tap], time_steps=time_steps) for tap in self.spec.taps
        )
        self._select = tuple(of_each("select", select, self.spec.taps, None).values())
        kinds = of_each("branch", branch, self.spec.taps, "linear")
        for tap, chosen in zip(self.spec.taps, self._select, strict=True):
            check_select("select", chosen)
            check_branch(kinds[tap])
        check_select("output", output, or_function=False)
        self._output = output
        self.main = net
        sizes = self._sizes(sample)
        self._channels = tuple(size for size, _ in sizes)
        self.branches = nnx.List(
            [
                make_branch(kinds[tap], *size, num_classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
                for tap, size in zip(self.spec.taps, sizes, strict=True)
            ]
        )
        self.deterministic = False  # set by train(), eval() and set_attributes(), as in nnx.Dropout

    def set_view(self, deterministic: bool | None = None) -> None:
        """Take what ``nnx.view`` sets.

        Args:
          deterministic: if True, the main logits alone are given, and no branch runs.
        """  # nnx.view_info reads arguments that are two spaces in
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, *inputs: Any, coefficient: Any = None, **keywords: Any) -> Any:
        """Return the composed logits in training, the main ones alone after ``eval()``.

        Args:
            *inputs: what the network takes, images for one.
            coefficient: lambda, the weight of the branches in the summed logits: a number or a scalar array, which may
                be traced. Needed in training unless the branches are kept apart for :class:`ShortcutLoss`, which then
                takes it.
            **keywords: keyword arguments of the network.

        Raises:
            ValueError: no coefficient in training, or one that is not a finite scalar; logits, a tapped output or a
                branch's logits of a shape that does not fit.
            TypeError: a network or a tap that gives something else than was said.
            RuntimeError: a tapped module that did not run, ran twice, whose output cannot be reached, or that is gone.
        """
        if self.deterministic:
            return self.main(*inputs, **keywords)
        if self.spec.combine == "logits" and coefficient is None:
            raise ValueError(
                "coefficient must be given in training, as in model(images, coefficient=0.25); "
                "call model.eval() for the main logits alone"
            )
        result, main, tapped = self._run(self.main, inputs, keywords, self._channels)
        branches = []
        for tap, (x, form), branch in zip(self.spec.taps, tapped, self.branches, strict=True):
            logits = branch(x)
            wanted = (*x.shape[:2], self.num_classes)
            if logits.shape != wanted:
                raise ValueError(
                    f"the branch of tap {tap!r} must give (time, batch, num_classes) = {wanted}, it gave {logits.shape}"
                )
            branches.append(as_main(logits, form, self.time_axis))
        if self.spec.combine == "losses":
            return replaced(result, self._output, ShortcutOutput(main, tuple(branches)))
        return replaced(result, self._output, sum_logits(main, branches, scalar(coefficient, main.dtype)))

    def strip(self) -> Net:
        """Return the network itself, on which nothing was left: it never had the branches."""
        return self.main

    def _run(
        self, net: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], channels: Sequence[int | None]
    ) -> tuple[Any, jax.Array, list[tuple[jax.Array, Main]]]:
        """Return what the network gives, the main logits in it, and each tapped output as its branch takes it."""
        recorded: dict[str, list[Any]] = {}
        if self._explicit:
            keywords = {**keywords, "taps": self._explicit}
        if self._paths:
            result, recorded = call_tapped(net, dict(self._paths), inputs, keywords)
        else:
            result = net(*inputs, **keywords)
        if self._explicit:
            if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
                raise TypeError(f"net returned {type(result).__name__} for taps={self._explicit}: {_WHAT_TO_IMPLEMENT}")
            result, returned = result
            ShortcutSpec(taps=self._explicit).check_taps(returned)
            recorded |= {tap: [returned[tap]] for tap in self._explicit}
        main = part("net", result, self._output, "output", jax.Array)
        tapped = []
        for tap, select, layout, size in zip(self.spec.taps, self._select, self._layouts, channels, strict=True):
            x = gather(tap, recorded[tap], select, self.time_axis)
            tapped.append(arrange(tap, x, layout, main, self.num_classes, size))
        return result, main, tapped

    def _sizes(self, sample: Any) -> list[tuple[int, int]]:
        """Return the channels and the number of axes of space of every tap."""
        if sample is None:
            stated = _stated_channels(self.main)
            for tap in self.spec.taps:
                if tap not in stated:
                    raise ValueError(
                        f"sample must be given, a batch of images: the channels of tap {tap!r} are not in "
                        f"{type(self.main).__name__}.spec.tap_channels"
                    )
            parts = getattr(getattr(self.main, "spec", None), "parts", {})
            return [(stated[tap], len(parts[tap].space) if tap in parts else 2) for tap in self.spec.taps]
        graph, state = nnx.split(self.main)
        unknown = [None] * len(self.spec.taps)

        def tapped(state: Any, inputs: Any, keywords: Any) -> list[jax.Array]:
            # on a copy: neither the network's state nor its random streams move
            return [x for x, _ in self._run(nnx.merge(graph, state), inputs, keywords, unknown)[2]]

        return [(x.shape[-1], x.ndim - 3) for x in shapes(tapped, state, *_arguments(sample))]


def _arguments(sample: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(sample, Mapping):
        return (), sample
    if type(sample) is not tuple:
        return (sample,), {}
    if len(sample) == 2 and type(sample[0]) is tuple and isinstance(sample[1], Mapping):
        return sample
    return sample, {}


def _stated(net: nnx.Module) -> list[Any]:
    """Return every place where the network says that time is."""
    owners: tuple[Any, ...] = (net, getattr(net, "spec", None))
    said = [owner.time_axis for owner in owners if hasattr(owner, "time_axis")]
    return [*said, *(0 for _, module in nnx.iter_modules(net) if isinstance(module, LIF))]


def _stated_channels(net: nnx.Module) -> Mapping[str, int]:
    known = getattr(getattr(net, "spec", None), "tap_channels", None)
    return {} if known is None else cast(Mapping[str, int], known)


def _find(net: nnx.Module, spec: ShortcutSpec) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[Path, ...]], ...]]:
    """Return the taps to ask the network for, and those found in its module tree with their paths."""
    stated = _stated_channels(net)
    if _takes_taps(net):
        if not stated:
            return spec.taps, ()
    else:
        stated = {}
    names = module_names(net)
    if not names and not stated:
        raise TypeError(
            f"net cannot be tapped: it has no modules inside, and {type(net).__name__}.__call__ takes no 'taps'; "
            f"{_WHAT_TO_IMPLEMENT}"
        )
    spec.check_taps([*stated, *(name for name in names if name not in stated)])
    explicit = tuple(tap for tap in spec.taps if tap in stated)
    paths = tuple((tap, names[tap]) for tap in spec.taps if tap not in explicit)
    if len({places for _, places in paths}) < len(paths):
        raise ValueError(f"taps must be different modules, but two of {', '.join(map(repr, spec.taps))} are the same")
    return explicit, paths


def _takes_taps(net: nnx.Module) -> bool:
    parameters = inspect.signature(net).parameters.values() if callable(net) else ()
    return any(parameter.name == "taps" for parameter in parameters)
