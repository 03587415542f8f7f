"""Memory: what stays does not grow with the number of rotations, and running out of it halves the chunk."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.testing import LinearField

PLAN = ep.RotationPlan("tetrahedral", replicates=2)
FORCES = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


def peak_and_held(replicates: int, *, keep: bool) -> tuple[int, int]:
    """Peak bytes of Python and NumPy allocations while streaming a NumPy model, and bytes of the tensors that stay."""
    inputs = {"pos": np.zeros((20_000, 3))}
    tracemalloc.start()
    plan = ep.RotationPlan("klein", replicates)
    orbit = ep.twirl(lambda x: {"forces": x["pos"] + 1.0}, inputs, FORCES, plan, keep=keep, floor=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tensors = [*orbit.means.values(), *orbit.squares.values(), *(orbit.values or {}).values()]
    return peak, sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rotations() -> None:
    # Groups of replicates are merged beyond 64, so 64 and 640 replicates hold the same moments.
    (peak, held), (peak_10, held_10) = peak_and_held(64, keep=False), peak_and_held(640, keep=False)
    assert held_10 == held == 2 * 64 * 20_000 * 3 * 8
    # The model's outputs are NumPy arrays of 480 kB and traced; all 2560 of them would be 1.2 GB. 10 % for bookkeeping.
    assert peak_10 < 1.1 * peak + 480_000
    assert peak_10 < 100 * 480_000
    assert peak_and_held(8, keep=True)[1] == (2 * 8 + 32) * 20_000 * 3 * 8, "kept only when asked for"


def test_running_out_of_memory_halves_the_chunk_and_changes_nothing(matrix: Tensor, positions: Tensor) -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("MPS: out of memory")):
        sizes = []

        def small(inputs: dict[str, Tensor], error: Exception = error, sizes: list[int] = sizes) -> dict[str, Tensor]:
            sizes.append(len(inputs["pos"]))
            if len(inputs["pos"]) > 3:
                raise error
            return LinearField(matrix)(inputs["pos"])

        orbit = ep.twirl(small, {"pos": positions}, FORCES, PLAN, stacked=True, chunk=24, floor=0)
        reference = ep.twirl(lambda x: LinearField(matrix)(x["pos"]), {"pos": positions}, FORCES, PLAN)
        assert sizes == [1, 24, 12, 6, *[3] * 8, 1], "it stays at what fits"
        assert float((orbit.kept("forces") - reference.kept("forces")).abs().max()) < 1e-13


def test_one_copy_that_does_not_fit_is_said(positions: Tensor) -> None:
    def never(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if bool((inputs["pos"] != positions).any()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"forces": inputs["pos"]}

    for stacked in (False, True):
        with pytest.raises(ep.EquivProbeError, match="single copy that does not fit"):
            ep.twirl(never, {"pos": positions}, FORCES, PLAN, stacked=stacked)


def test_other_errors_are_the_models_own(positions: Tensor) -> None:
    def broken(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        ep.twirl(broken, {"pos": positions}, FORCES, PLAN)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(in_chunks(lambda a, b: broken({}), 4, 4))


def test_in_chunks_covers_the_range_in_order() -> None:
    assert list(in_chunks(lambda a, b: (a, b), 10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(in_chunks(lambda a, b: (a, b), 0, 4)) == []
