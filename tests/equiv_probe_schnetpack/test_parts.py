"""A few structures of SchNetPack's batches, alone: each gets what it gets in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equiv_probe.live.cutting import FEW
from equiv_probe.live.live_orbit import LiveOrbit

from .spk_models import batch, copied, crystals, potential, structures


@pytest.mark.parametrize("kind", ["painn", "unconstrained"])
@pytest.mark.parametrize("atoms", [structures, crystals])
def test_parts_get_what_they_get_in_their_batch(kind: str, atoms: Any) -> None:
    model = potential(kind, stress=atoms is crystals and kind == "painn").eval()
    given = batch([one for seed in range(8) for one in atoms(seed)])
    live = LiveOrbit(model)
    call, raw = live.keep((copied(given),), {}), model(copied(given))
    live.resolve(call, raw)
    part = live.part(call, raw, seed=0, number=1)
    assert part is not None
    assert len(part.chosen) == FEW
    assert part.count == len(given["_n_atoms"])
    alone, outputs = live.copies.at(part.call, {}), live.copies.at(call, {})
    assert set(outputs) >= {"energy", "forces"}
    for name, value in part.of(outputs).items():
        # Sums in another order: a few units in the last place of the largest term.
        torch.testing.assert_close(alone[name], value, rtol=1e-10, atol=1e-10)
    assert torch.equal(part.owners["forces"].bincount(), given["_n_atoms"][part.chosen])
