"""The gradients of ``L_mean`` and ``L_equiv`` as measured: norms, their ratio, and their angle, by parameter group."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from equiv_probe.deprecation import warn
from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.gradient_sums import GradientSums
from equiv_probe.landscape.parameter_groups import ALL
from equiv_probe.report.by_name import ByName
from equiv_probe.results.gradient_record import GradientNumbers, GradientRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from equiv_probe.estimation.estimates import Estimate
    from equiv_probe.report.document import Document

_STORED = ("norm_total", "norm_mean", "norm_equiv", "ratio", "cosine", "squared_mean", "squared_equiv", "inner")


def _of_all(name: str) -> cached_property[Estimate]:
    return cached_property(lambda self: getattr(self[ALL], name))


@dataclass(frozen=True)
class Gradients(ByName[GradientSums]):
    """``∇L_total``, ``∇L_mean`` and ``∇L_equiv`` by group of parameters; ``+`` merges measurements.

    Attributes:
        groups: sums by group; ``"all"`` is of all parameters, and so are ``norm_total``, ``norm_mean``, ``norm_equiv``,
            ``ratio`` and ``cosine`` of the whole, as :class:`GradientSums` defines them.
        blocks: what they are of: ``"rotations"`` or ``"structures"``.
        sizes: how many numbers the parameters of each group are.
    """

    groups: Mapping[str, GradientSums]
    blocks: str = "rotations"
    sizes: Mapping[str, int] = field(default_factory=dict)

    def items(self) -> list[tuple[str, GradientSums]]:
        """The sums by group."""
        return list(self.groups.items())

    def __add__(self, other: Gradients) -> Gradients:
        if self.groups.keys() != other.groups.keys() or self.blocks != other.blocks:
            raise EquivProbeError(
                f"gradients of {sorted(other.groups)} from blocks of {other.blocks}",
                f"{sorted(self.groups)}, {self.blocks}",
            )
        return replace(self, groups={name: one + other.groups[name] for name, one in self.groups.items()})

    @property
    def over(self) -> str:
        """The old name of :attr:`blocks`."""
        warn("Gradients.over is now called Gradients.blocks")
        return self.blocks

    def to(self, device: torch.device | str) -> Gradients:
        """On another device."""
        return replace(self, groups={name: GradientSums(one.sums.to(device)) for name, one in self.groups.items()})

    def finite(self) -> Gradients:
        """Without what is not finite: it counts nothing."""
        return replace(self, groups={name: one.finite() for name, one in self.groups.items()})

    norm_total = _of_all("norm_total")
    norm_mean = _of_all("norm_mean")
    norm_equiv = _of_all("norm_equiv")
    ratio = _of_all("ratio")
    cosine = _of_all("cosine")

    def record(self) -> GradientRecord:
        """The numbers alone, to store and to show; waits for the device."""
        groups = {}
        for name, one in self.groups.items():
            estimates = {key: getattr(one, key) for key in _STORED}
            groups[name] = GradientNumbers.of(self.sizes.get(name), int(one.sums.count), estimates)
        return GradientRecord(self.blocks, groups)

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
