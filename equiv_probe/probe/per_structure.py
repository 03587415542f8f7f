"""A replayed step's numbers, split into the losses of its structures: by one run more, with the output as a leaf."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from equiv_probe.live.capture import wide
from equiv_probe.probe.separation import agrees, elsewhere, owners_of, read_off
from equiv_probe.probe.step_losses import attached_to_a_graph, precision_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from equiv_probe.estimation.jackknife import Jackknife
    from equiv_probe.probe.operators import Operator
    from equiv_probe.probe.player import Player
    from equiv_probe.probe.separation import Owners
    from equiv_probe.schema.structures import Structures


@dataclass(frozen=True)
class Split:
    """One number of a step, split by structure.

    Attributes:
        estimate: the jackknife of each structure, ``(U,)``, scaled so that the mean over structures is the step's
            number. NaN if that turned out to be something else.
        weight: one for structures that are there and count, else zero, ``(U,)``.
        right: whether it can be split so, ``()``.
        constant: what of the number does not depend on the network's outputs, shared by all structures alike, ``()``.
    """

    estimate: Jackknife
    weight: Tensor
    right: Tensor
    constant: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """The losses of the structures, ``(U,)`` for every replay; weights and ``right`` as for :class:`Split`."""

    by_operator: Mapping[Operator, Tensor]
    weight: Tensor
    right: Tensor
    constant: Tensor | None = None

    @classmethod
    def returned(cls, by_operator: Mapping[Operator, Tensor], batch: Structures) -> Losses:
        """Those that the step itself returned: ``(B,)``, beside room for U ≥ B structures, or one for each node."""
        like = next(iter(by_operator.values()))
        right, index = torch.ones_like(like[0], dtype=torch.bool), batch.index
        if index is not None and len(like) == len(index):
            nodes = like.new_zeros(batch.count).index_add_(0, index, torch.ones_like(like))
            there = (nodes > 0).to(like)
            scale = there.sum() / len(like)  # so that the mean over structures is the mean over nodes
            sums = {o: like.new_zeros(batch.count).index_add_(0, index, v) * scale for o, v in by_operator.items()}
            return cls(sums, there, right)
        padding = like.new_zeros(batch.count - len(like))
        padded = {operator: torch.cat([values, padding]) for operator, values in by_operator.items()}
        return cls(padded, torch.cat([torch.ones_like(like), padding]), right)

    def checked(self) -> dict[Operator, Tensor]:
        """The losses, or NaN where they are none."""
        return {operator: torch.where(self.right, values, torch.nan) for operator, values in self.by_operator.items()}


def separated(
    run: Callable[[Operator], Any],
    player: Player,
    scalars: Mapping[Operator, Mapping[str, Tensor]],
    structures: Sequence[Structures],
    modules: Sequence[nn.Module],
) -> tuple[dict[str, Losses], dict[str, str]]:
    """Split the numbers of a step that are weighted squared errors of the network's outputs.

    Args:
        run: the step once more, as this network.
        player: which stands in for the network, and kept what it put out.
        scalars: the numbers that came back, by network.
        structures: of each call.
        modules: whose backward hooks are for the user's own backward pass.

    Returns:
        Losses of structures by name, and why there are none of another name.
    """
    base = next(iter(scalars))
    names = list(scalars[base])
    if not player.separable or any(len(one) != len(structures) for one in player.kept.values()):
        why = "depends on more than the network's outputs: the step differentiates its input, or goes another way"
        return {}, dict.fromkeys(names, why)
    try:
        first = _differentiable(run, base, player, modules)
        owners = owners_of(first.leaves, structures)
        # Once more for outputs that no network gave: what is a squared error and a constant is so there too.
        with differentiating(modules):
            shifts = elsewhere(first.numbers, first.leaves)
        second = _differentiable(run, base, player, modules, shifts=shifts)
    except Exception as error:  # the step never ran so before; what it cannot do here, it need not be able to do
        return {}, dict.fromkeys(names, f"could not be run with gradients ({type(error).__name__}: {error})")
    found: dict[str, Losses] = {}
    without = [name for name in names if name not in first.numbers]
    unsplit = dict.fromkeys(without, "came back without the graph that it was computed by")
    for name in first.numbers:
        try:
            with differentiating(modules):
                returned = {operator: one[name] for operator, one in scalars.items()}
                found[name] = _losses(name, (first, second), owners, player.kept, returned)
        except RuntimeError as error:
            unsplit[name] = f"could not be differentiated twice ({error})"
    return found, unsplit


class _Run(NamedTuple):
    """A run of the step with outputs that are leaves of a graph."""

    leaves: list[dict[str, Tensor]]
    numbers: dict[str, Tensor]


def _differentiable(
    run: Callable[[Operator], Any],
    operator: Operator,
    player: Player,
    modules: Sequence[nn.Module],
    *,
    shifts: Sequence[Mapping[str, Tensor]] = (),
) -> _Run:
    """Run the step with the outputs of a network, moved by ``shifts``, as leaves of the graph of its numbers."""
    player.leaves, player.shifts = [], shifts
    try:
        with differentiating(modules), Differentiable():
            numbers = attached_to_a_graph(run(operator))
        return _Run(player.leaves, numbers)
    finally:
        player.leaves, player.shifts = None, ()


def _losses(
    name: str,
    both: tuple[_Run, _Run],
    owners: Owners,
    kept: Mapping[Operator, Sequence[Mapping[str, Tensor]]],
    returned: Mapping[Operator, Tensor],
) -> Losses:
    first, second = both
    error, loss = read_off(first.numbers[name], first.leaves), first.numbers[name].detach()
    by_operator = {operator: error.losses(kept[operator], owners) for operator in returned}
    coarsest = max(torch.finfo(v.dtype).eps for one in first.leaves for v in one.values())
    coarsest = max(coarsest, precision_of(loss, "loss"))
    leaves = ([{name: value.detach() for name, value in one.items()} for one in run.leaves] for run in both)
    here, there = (error.losses(values, owners) for values in leaves)
    constant = wide(loss) - here.sum()
    moved = wide(second.numbers[name].detach()) if name in second.numbers else torch.full_like(constant, torch.nan)
    fits = agrees([here, there], [wide(loss), moved], coarsest, constant)
    fits = fits & agrees(list(by_operator.values()), list(returned.values()), coarsest, constant)
    weight, scale = error.counts(owners)
    share = constant * weight / len(owners)  # which structure it belongs to, nobody knows: to all alike
    scaled = {operator: values * scale + share for operator, values in by_operator.items()}
    return Losses(scaled, weight, error.convex & fits & (weight.sum() > 0), constant)


@contextmanager
def differentiating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """A context in which what runs builds a graph, and the modules' backward hooks, the user's, do not notice."""
    with torch.inference_mode(False), torch.enable_grad(), _without_backward_hooks(modules):
        yield


@contextmanager
def _without_backward_hooks(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Modules without hooks on their backward pass, which the user put there for another."""
    inside = {id(m): m for root in modules for m in root.modules() if not hasattr(m, "_orig_mod")}
    ordinary = [m for m in inside.values() if not isinstance(m, torch.jit.ScriptModule)]
    kept = [(m, m._backward_hooks, m._backward_pre_hooks) for m in ordinary]
    for module in ordinary:
        module._backward_hooks, module._backward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, hooks, before in kept:
            module._backward_hooks, module._backward_pre_hooks = hooks, before


class Differentiable(TorchFunctionMode):
    """Lets a step's loss be differentiated twice, unseen.

    Tensors made in inference mode, as evaluation batches are, cannot be saved for a backward pass: clones of them can.
    Hooks that the step puts on its tensors are for the user's own backward pass, and are left out; and so is that pass,
    where the step goes backward itself. Where it hands numbers to NumPy, as evaluation steps do without a thought of
    gradients, it hands them over detached.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clones: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if function in {torch.Tensor.register_hook, torch.Tensor.retain_grad, torch.Tensor.backward}:
            return None
        args, kwargs = tree_map(self._ordinary, (args, kwargs or {}))
        if function in (torch.Tensor.numpy, torch.Tensor.__array__):
            args = (args[0].detach(), *args[1:])
        return function(*args, **kwargs)

    def _ordinary(self, value: Any) -> Any:
        if not (isinstance(value, torch.Tensor) and value.is_inference()):
            return value
        if id(value) not in self._clones:
            self._clones[id(value)] = value, value.clone()
        return self._clones[id(value)][1]
