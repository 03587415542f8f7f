"""The gradients of ``L_mean`` and ``L_equiv``: how long they are, and the angle between them, by group of parameters.

>>> import torch, equiv_probe as ep
>>> model = torch.nn.Linear(3, 3, bias=False).double()
>>> x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
>>> loss = ep.analysis.OrbitLoss(model, x, 2 * x, schema, ep.RotationPlan("tetrahedral", replicates=6))
>>> found = ep.analysis.gradients(loss)
>>> abs(found.cosine.value) < 1e-6  # of a linear model the two are orthogonal: one is the trace, the other the rest
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.gradient_sums import GradientSums, products
from equiv_probe.results.gradient_numbers import GradientNumbers
from equiv_probe.results.gradient_record import GradientRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.landscape.orbit_loss import OrbitLoss
    from equiv_probe.landscape.orbit_parts import Decomposed
    from equiv_probe.report.document import Document

ALL = "all"
"""The group of all parameters."""
Groups = Callable[[str], str | None] | torch.optim.Optimizer | Iterable[Mapping[str, Any]] | None
"""What parts parameters into groups: their names, an optimizer, or its ``param_groups``; None: their modules."""
_STORED = ("norm_total", "norm_mean", "norm_equiv", "ratio", "cosine", "squared_mean", "squared_equiv", "inner")


@dataclass(frozen=True)
class Gradients:
    """``∇L_total``, ``∇L_mean`` and ``∇L_equiv`` by group of parameters; ``+`` merges measurements.

    Attributes:
        groups: sums by group; ``"all"`` is of all parameters.
        over: what the blocks are of: ``"rotations"`` or ``"structures"``.
        sizes: how many numbers the parameters of each group are.
    """

    groups: Mapping[str, GradientSums]
    over: str = "rotations"
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, group: str) -> GradientSums:
        return self.groups[group]

    def __add__(self, other: Gradients) -> Gradients:
        if self.groups.keys() != other.groups.keys() or self.over != other.over:
            raise EquivProbeError(
                f"gradients of {sorted(other.groups)} over {other.over}", f"{sorted(self.groups)} over {self.over}"
            )
        merged = {name: one + other.groups[name] for name, one in self.groups.items()}
        return Gradients(merged, self.over, self.sizes)

    def to(self, device: torch.device | str) -> Gradients:
        """On another device."""
        moved = {name: GradientSums(one.sums.to(device)) for name, one in self.groups.items()}
        return Gradients(moved, self.over, self.sizes)

    def finite(self) -> Gradients:
        """Without what is not finite: it counts nothing."""
        return Gradients({name: one.finite() for name, one in self.groups.items()}, self.over, self.sizes)

    @property
    def norm_total(self) -> Estimate:
        """``‖∇L_total‖`` over all parameters."""
        return self[ALL].norm_total

    @property
    def norm_mean(self) -> Estimate:
        """``‖∇L_mean‖`` over all parameters."""
        return self[ALL].norm_mean

    @property
    def norm_equiv(self) -> Estimate:
        """``‖∇L_equiv‖`` over all parameters."""
        return self[ALL].norm_equiv

    @property
    def ratio(self) -> Estimate:
        """``‖∇L_equiv‖ / ‖∇L_mean‖`` over all parameters."""
        return self[ALL].ratio

    @property
    def cosine(self) -> Estimate:
        """Of the angle between ``∇L_mean`` and ``∇L_equiv``, over all parameters."""
        return self[ALL].cosine

    def record(self) -> GradientRecord:
        """The numbers alone, to store and to show; waits for the device."""
        groups = {
            name: GradientNumbers.of(
                self.sizes.get(name), int(one.sums.count), {key: getattr(one, key) for key in _STORED}
            )
            for name, one in self.groups.items()
        }
        return GradientRecord(self.over, groups)

    def document(self) -> Document:
        """What it says."""
        return self.record().document()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers by group, each with ``_stderr`` and ``_interval``, and the squares before the root."""
        return self.record().to_dict()

    def save(self, path: str | Path) -> None:
        """Write the numbers as ``.json``, ``.html``, ``.csv`` or ``.parquet``; :func:`equiv_probe.load` reads JSON."""
        self.record().save(path)

    def _repr_html_(self) -> str | None:
        """What a notebook shows."""
        return self.record()._repr_html_()

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """The numbers in a terminal."""
        yield self.record()

    def __str__(self) -> str:
        return str(self.record())


def gradients(
    loss: OrbitLoss,
    groups: Groups = None,
    *,
    over: Literal["rotations", "structures"] = "rotations",
    blocks: int | None = None,
) -> Gradients:
    """The gradients of ``L_mean`` and ``L_equiv``: norms, their ratio, and the cosine of the angle between them.

    Norms and products come from different blocks of rotations, so that the noise of a gradient does not lengthen it;
    see :mod:`equiv_probe.landscape.gradient_sums`. Two gradients a block are held in memory at once.

    Args:
        loss: the decomposed loss, with at least two replicates a block; its ``.parameters`` are differentiated by.
        groups: a function from a parameter's name to its group (None leaves it out), an optimizer or its
            ``param_groups``; None takes top-level submodules. There is always a group ``"all"``.
        over: ``"rotations"``: the norm of the gradient of the loss on these data. ``"structures"``: that of the
            population they are drawn from, so the noise of the data is left out too; it needs
            ``OrbitLoss(..., per_structure=True)``.
        blocks: how many; None is as many as there can be, up to eight. Error bars need three.

    Raises:
        EquivProbeError: too few replicates or structures, or nothing that requires a gradient.
    """
    parameters = loss.parameters
    members = grouped(parameters, groups)
    if blocks is None:
        have = loss.replicates // 2 if over == "rotations" else loss.structures
        blocks = max(2, min(8, have))
    given = list(parameters.values())

    def both(losses: Decomposed) -> list[Tensor]:
        return [*of_losses(losses.mean, given, keep=True), *of_losses(losses.equiv, given)]

    rows = [block.accumulate(both) for block in loss.blocks(blocks, over)]
    return of_blocks(
        [row[: len(given)] for row in rows], [row[len(given) :] for row in rows], parameters, members, over
    )


def of_losses(loss: Tensor, parameters: Sequence[Tensor], *, keep: bool = False, scale: float = 1.0) -> list[Tensor]:
    """The gradient of one loss; zero for parameters that it does not hang on.

    Args:
        loss: ``()``.
        parameters: to differentiate by; nothing is written to their ``.grad``.
        keep: the graph, for another loss.
        scale: the loss is multiplied, and its gradient divided by: half precision cannot hold small gradients.
    """
    seed = torch.full_like(loss, scale)
    found = torch.autograd.grad(
        loss, list(parameters), seed, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    real = (_real(one.detach()) for one in found)
    wider = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in real)
    return [one if scale == 1.0 else one / scale for one in wider]


def _real(gradient: Tensor) -> Tensor:
    """Of what kind a parameter may be, a dense tensor of real numbers: of complex ones both parts."""
    dense = gradient if gradient.layout == torch.strided else gradient.to_dense()
    return torch.view_as_real(dense) if dense.is_complex() else dense


def of_blocks(
    mean: Sequence[Sequence[Tensor]],
    equiv: Sequence[Sequence[Tensor]],
    parameters: Mapping[str, Tensor],
    members: Mapping[str, Sequence[int]],
    over: str = "rotations",
) -> Gradients:
    """Norms and products by group.

    Args:
        mean: of each block, the gradients of ``L_mean`` by each parameter.
        equiv: likewise of ``L_equiv``.
        parameters: by name.
        members: places of the parameters of each group, from :func:`grouped`.
        over: what the blocks are of.
    """
    found, sizes = {}, {}
    counts = [value.numel() for value in parameters.values()]
    for name, places in members.items():
        x = products([[block[k] for k in places] for block in mean], [[block[k] for k in places] for block in equiv])
        found[name], sizes[name] = GradientSums.of(x), sum(counts[k] for k in places)
    return Gradients(found, over, sizes)


def grouped(parameters: Mapping[str, Tensor], groups: Groups = None) -> dict[str, list[int]]:
    """Places of the parameters of each group, those of ``"all"`` first.

    Args:
        parameters: by name.
        groups: as for :func:`gradients`.

    Raises:
        EquivProbeError: there is no parameter.

    >>> grouped({"net.a.weight": torch.ones(1), "net.a.bias": torch.ones(1), "net.b.weight": torch.ones(1)})
    {'all': [0, 1, 2], 'a': [0, 1], 'b': [2]}
    """
    if not parameters:
        raise EquivProbeError("no parameter that requires a gradient", "at least one", "parameter.requires_grad_()")
    label = _labels(parameters, groups)
    found: dict[str, list[int]] = {ALL: []}
    for k, name in enumerate(parameters):
        group = label(name)
        if group is not None:
            found[ALL].append(k)
            if group != ALL:
                found.setdefault(group, []).append(k)
    if not found[ALL]:
        raise EquivProbeError(f"groups that hold none of {list(parameters)}", "at least one parameter", "groups=None")
    return found


def _labels(parameters: Mapping[str, Tensor], groups: Groups) -> Callable[[str], str | None]:
    if groups is None:
        paths = {name: name.split(".") for name in parameters}
        depth = 0
        # What all are in is no group: `net.` of a wrapper.
        while all(len(path) > depth + 2 for path in paths.values()) and len({p[depth] for p in paths.values()}) == 1:
            depth += 1
        return lambda name: paths[name][depth]
    if isinstance(groups, torch.optim.Optimizer):
        groups = groups.param_groups
    if callable(groups):
        return groups
    owner = {
        id(parameter): str(group.get("name", f"group {k}"))
        for k, group in enumerate(groups)
        for parameter in group["params"]
    }
    return lambda name: owner.get(id(parameters[name]))


def parameters_of(modules: Iterable[torch.nn.Module]) -> dict[str, Tensor]:
    """The parameters of modules by name, each once; of two of one name, the later is told apart by its place."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for k, module in enumerate(modules):
        for name, value in module.named_parameters():
            if id(value) not in seen:
                seen.add(id(value))
                found[name if name not in found else f"{k}.{name}"] = value
    return found
