"""Bins of an input of the network: diffusion time, noise level, whatever the share changes with.

Every structure falls into the bin of its own value, and each bin keeps the sums of
:class:`equiv_probe.estimation.estimates.Sums`: so bins merge over batches, ranks and resumed runs as everything else
does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import wide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.estimation.measurement import Measurement
    from equiv_probe.estimation.running import RunningEstimates
    from equiv_probe.probe.replay import Replay
    from equiv_probe.schema.structures import Structures

Bins = int | Sequence[float] | Any
"""How many equal bins of [0, 1], or edges in rising order: a sequence, a tensor or an array."""
NOT_SQUARED = "is no squared error of the network's output, element by element"
_SHOWN = "bins=torch.logspace(-2, 2, 11) for noise levels, bins=[0, 100, 200, ..., 1000] for integer steps"


class Over:
    """The input over which losses are binned, and the bins.

    Args:
        name: of an input of the network's call.
        bins: None is ten equal bins of [0, 1].

    Raises:
        EquivProbeError: edges that do not rise.
    """

    def __init__(self, name: str, bins: Bins | None = None) -> None:
        self.name = name
        self.edges: Tensor
        self.notes: list[str] = []
        """What could not be binned, and why."""
        self._seen = False
        self._eps = torch.finfo(torch.float64).eps
        edges = 10 if bins is None else bins
        self._assumed = isinstance(edges, int) and not isinstance(edges, bool)
        if isinstance(edges, int) and self._assumed:
            edges = torch.linspace(0, 1, max(edges, 0) + 1, dtype=torch.float64)
        try:
            self.edges = torch.as_tensor(edges, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            self.edges = torch.zeros(0)
        rising = self.edges.ndim == 1 and len(self.edges) > 1 and bool((self.edges.diff() > 0).all())
        if not (rising and bool(self.edges.isfinite().all())):
            raise EquivProbeError(f"bins={bins!r}", "a number of bins, or two or more edges in rising order", _SHOWN)

    @property
    def rows(self) -> int:
        """Rows of the sums: one for each bin, and what lies below and above them first and last."""
        return len(self.edges) + 1

    def values(self, inputs: Mapping[str, Any], structures: Structures) -> Tensor:
        """The value of every structure in one call, ``(U,)``; the first time it is looked at, which waits.

        Args:
            inputs: of the call.
            structures: of the call.

        Raises:
            EquivProbeError: there is no such input, it is not one number for each structure, or its bins are not known.
        """
        name = self._find(inputs)
        device = next((v.device for v in inputs.values() if isinstance(v, torch.Tensor)), torch.device("cpu"))
        given = inputs[name]
        if isinstance(given, (int, float)):
            given = torch.full((), given, device=device, dtype=torch.float64 if isinstance(given, float) else None)
        self._eps = torch.finfo(given.dtype if given.is_floating_point() else torch.float64).eps
        value = wide(given.detach().to(device, non_blocking=True))
        least, most = self._of_structures(name, value, structures)
        if not self._seen:
            self._look(name, given, value, least, most)
            self._seen = True
        return most

    def _find(self, inputs: Mapping[str, Any]) -> str:
        kinds = (torch.Tensor, int, float)
        there = {n: v for n, v in inputs.items() if isinstance(v, kinds) and not isinstance(v, bool)}
        found = [n for n in there if n == self.name] or [n for n in there if n.rpartition(".")[2] == self.name]
        if len(found) != 1:
            shapes = {n: tuple(v.shape) if isinstance(v, torch.Tensor) else v for n, v in there.items()}
            raise EquivProbeError(
                f"over={self.name!r} and a network that is called with {shapes}",
                "the name of one of these inputs, as in the signature of its forward",
                f"over={next((n for n in there if n in {'t', 'time', 'sigma', 'timestep'}), '<input>')!r}",
            )
        return found[0]

    def _of_structures(self, name: str, value: Tensor, structures: Structures) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number of each structure, ``(U,)``: they should be one."""
        count = structures.count
        if value.numel() == 1:
            one = value.reshape(1).expand(count)
            return one, one
        if structures.layout == "index":
            owner = structures.owner(value, name)
            if value.numel() == len(value) and owner is not None:
                flat, nothing = value.flatten(), value.new_zeros(count)
                low, high = (nothing.scatter_reduce(0, owner, flat, k, include_self=False) for k in ("amin", "amax"))
                return low, high
            if value.numel() == len(value) <= count:
                padded = torch.cat([value.flatten(), value.new_full((count - len(value),), torch.nan)])
                return padded, padded
        elif structures.layout == "one":
            return value.amin()[None], value.amax()[None]
        elif len(value) == count:
            mask = structures.mask
            if mask is not None and mask.shape == value.shape[:2]:
                held = mask.bool().reshape(*mask.shape, *(1,) * (value.ndim - 2))
                low = torch.where(held, value, torch.inf).flatten(1).amin(1)
                return low, torch.where(held, value, -torch.inf).flatten(1).amax(1)
            return value.flatten(1).amin(1) if value.ndim > 1 else value, value.reshape(count, -1).amax(1)
        raise EquivProbeError(
            f"over={self.name!r} of shape {tuple(value.shape)} in a batch of {count} structures",
            "one number for each structure, each node, or all",
            "a network that is given it as (B,), (B, 1) or (N,) beside a batch index",
        )

    def _look(self, name: str, given: Tensor, value: Tensor, least: Tensor, most: Tensor) -> None:
        if bool((least < most).any()):
            raise EquivProbeError(
                f"over={self.name!r} with several values within one structure",
                "one value for each structure",
                "another input: the bins are of structures",
            )
        inside = given.is_floating_point() and bool(((value >= 0) & (value <= 1)).all())
        if self._assumed and not inside:
            seen = f"{float(value.min()):g} to {float(value.max()):g}"
            raise EquivProbeError(f"{name!r} of {given.dtype} from {seen}", "edges of the bins", _SHOWN)

    def binned(self, values: Tensor, equiv: Tensor, total: Tensor, weight: Tensor) -> Tensor:
        """Sums of structures in the bins of their values, ``(rows, 13)``; nothing waits for the device.

        Args:
            values: of the structures, ``(U,)``.
            equiv: ``L_equiv``, ``(U,)``; structures for which it is NaN do not count.
            total: ``L_total``, ``(U,)``; NaN without labels.
            weight: in the loss, ``(U,)``.

        Returns:
            For each bin what :meth:`equiv_probe.estimation.estimates.Sums.flat` gives.
        """
        if self.edges.device != equiv.device:
            self.edges = self.edges.to(equiv.device, non_blocking=True)
        values = values.to(equiv.device, non_blocking=True).contiguous()
        # Of 0.1, 0.2, … as float32 some lie just below the edge that is meant, by rounding alone.
        slack = 2 * self._eps * self.edges.abs()
        place = torch.bucketize(values, self.edges - slack, right=True)
        at_end = (values >= self.edges[-1] - slack[-1]) & (values <= self.edges[-1] + slack[-1])
        place = torch.where(at_end, len(self.edges) - 1, place)  # the last bin holds its upper edge
        counts = (weight > 0) & equiv.isfinite()
        x = torch.stack([equiv * weight, total * weight, weight], -1).double()
        x = torch.where(counts[:, None], x, 0.0)
        flat = torch.cat([x, (x[:, :, None] * x[:, None, :]).flatten(1), counts.double()[:, None]], 1)
        return flat.new_zeros(self.rows, 13).index_add_(0, place, flat)

    def add_calls(
        self, running: RunningEstimates, stage: str, values: Tensor, measured: Mapping[str, Measurement]
    ) -> None:
        """Bin what was measured at a call of the network, structure by structure.

        Args:
            running: where the sums are kept.
            stage: whose.
            values: of the call's structures, ``(U,)``.
            measured: by output or loss.
        """
        for name, found in measured.items():
            equiv = found.estimate.equiv
            if len(equiv) != len(values):
                self.refuse(stage, name, "is of outputs with other structures than the call has")
                continue
            total = found.estimate.total if found.labelled else torch.full_like(equiv, torch.nan)
            running[stage, name].binned.add(self.binned(values, equiv, total, found.weight))

    def add_step(
        self, running: RunningEstimates, stage: str, calls: Sequence[Tensor], replay: Replay, *, look: bool
    ) -> None:
        """Bin the numbers of a step, as far as they were split by structure.

        Args:
            running: where the sums are kept.
            stage: whose.
            calls: values of the structures of each call, ``(U,)``.
            replay: what came of the step.
            look: whether the device may be waited for, to say what was not split.
        """
        for name, split in replay.per_structure.items():
            own = calls[0] if len(split.weight) == len(calls[0]) else torch.cat(list(calls))
            found = split.estimate
            running[stage, name].binned.add(self.binned(own, found.equiv, found.total, split.weight))
            if look and not replay.returned and not bool(split.right):
                self.refuse(stage, name, NOT_SQUARED)
            elif look and split.constant is not None and bool(split.right):
                self._note_constant(stage, name, float(split.constant), float(replay.scalars[name].total))
        for name, why in replay.unsplit.items():
            if not replay.returned:
                self.refuse(stage, name, why)

    def _note_constant(self, stage: str, name: str, constant: float, total: float) -> None:
        """Note that some of a number depends on no structure's output; the first time."""
        beginning = f"{stage}/{name} in bins of {self.name!r}:"
        if abs(constant) > 1e-3 * abs(total) and not any(note.startswith(beginning) for note in self.notes):
            self.notes.append(
                f"{beginning} {constant:.3g} of {total:.3g} does not depend on the network's outputs (a constant, a "
                "prior, a divergence); all structures bear it alike."
            )

    def refuse(self, stage: str, name: str, why: str) -> None:
        """Note that a loss could not be binned, and say so once."""
        note = (
            f"{stage}/{name} is not in bins of {self.name!r}: it {why}, so it cannot be split by structure. "
            f'Return the structures\' own losses, (B,): probe.step(lambda: losses), or {{"loss": losses.mean(), '
            f'"losses": losses}} from a Lightning step.'
        )
        if note not in self.notes:
            self.notes.append(note)
            warnings.warn(f"equiv_probe: {note}", stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"name": self.name, "edges": self.edges.cpu(), "notes": list(self.notes)}

    def continues(self, state: Mapping[str, Any] | None) -> bool:
        """Whether sums that were kept with such a state are of the same bins."""
        return bool(state and state["name"] == self.name and torch.equal(state["edges"].cpu(), self.edges.cpu()))
