"""A few structures of a batch as a call of their own: what a cheap measurement looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from equiv_probe.live.cutting import CannotCut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from equiv_probe.live.capture import Call
    from equiv_probe.schema.schema import Named
    from equiv_probe.schema.structures import Structures


@dataclass(frozen=True)
class SubBatch:
    """Some structures of a batch.

    Attributes:
        call: with these structures alone.
        count: structures of the batch, U.
        chosen: their numbers, ``(S,)``, in order.
        rows: by output, which rows of its first axis are theirs, in the order in which the small call has them.
        owners: by output, to which of the chosen each of these rows belongs.
    """

    call: Call
    count: int
    chosen: Tensor
    rows: Mapping[str, Tensor]
    owners: Mapping[str, Tensor]

    @property
    def scale(self) -> float:
        """By which a sum over the chosen is multiplied to estimate that over the batch, without bias."""
        return self.count / len(self.chosen)

    def of(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the batch's outputs those of the chosen."""
        return {name: value[self.rows[name]] for name, value in outputs.items() if name in self.rows}

    def put_back(
        self, values: Mapping[str, Tensor], outputs: Mapping[str, Tensor], group: Tensor | None
    ) -> dict[str, Tensor]:
        """The batch's outputs, with those of the chosen, or of a group ``(G,)`` of them, replaced."""
        found = {}
        for name, value in outputs.items():
            found[name] = value.clone()
            mine = slice(None) if group is None else torch.isin(self.owners[name], group)
            found[name][self.rows[name][mine]] = values[name][mine].to(value.dtype)
        return found


def sub_batch(
    call: Call, inputs: Named, structures: Structures, outputs: Mapping[str, Tensor], chosen: Tensor
) -> SubBatch:
    """A call of the chosen structures.

    Args:
        call: of the whole batch.
        inputs: those of the chosen.
        structures: of the whole batch, as many as there are.
        outputs: of the whole batch.
        chosen: ``(S,)``.

    Raises:
        CannotCut: an output of which nobody knows whose it is.
    """
    rows, owners = {}, {}
    for name, value in outputs.items():
        here = chosen.to(value.device)
        owner = structures.owner(value, name) if structures.layout == "index" and value.ndim else None
        if owner is not None:
            rows[name] = torch.isin(owner, here).nonzero().flatten()
            owners[name] = torch.searchsorted(here, owner[rows[name]])
        elif value.ndim and len(value) == structures.count:
            rows[name], owners[name] = here, torch.arange(len(here), device=value.device)
        else:
            raise CannotCut
    return SubBatch(replace(call, inputs=inputs, dicts=()), structures.count, chosen, rows, owners)
