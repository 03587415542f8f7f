"""The gradients of ``L_mean`` and ``L_equiv`` as measured: norms, their ratio, and their angle, by parameter group."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.gradient_sums import GradientSums
from equiv_probe.landscape.parameter_groups import ALL

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from equiv_probe.estimation.estimates import Estimate

_SHOWN = ("norm_total", "norm_mean", "norm_equiv", "ratio", "cosine")


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

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers by group, each with ``_stderr`` and ``_interval``, and the squares before the root."""
        found = {}
        for name, one in self.groups.items():
            squares = {"squared_mean": one.squared_mean, "squared_equiv": one.squared_equiv, "inner": one.inner}
            row: dict[str, Any] = {"parameters": self.sizes.get(name), "units": int(one.sums.count)}
            for key, value in {**{key: getattr(one, key) for key in _SHOWN}, **squares}.items():
                row |= {key: value.value, f"{key}_stderr": value.stderr, f"{key}_interval": (value.low, value.high)}
            found[name] = row
        return {"over": self.over, "groups": found}

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """The numbers as a Rich table."""
        from equiv_probe.report.terminal import FittedTable
        from equiv_probe.results.gradient_table import table

        yield FittedTable(table(self.to_dict()))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=StringIO(), width=120, highlight=False, color_system=None)
        console.print(self)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines())
