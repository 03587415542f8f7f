"""Padding of a dense batch stays where it is when structures rotate, as it does in rotated data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

ATOMS = 6
COUNTS = torch.tensor([2.0, 3, 5, 6], dtype=torch.float64)
MASK = torch.arange(ATOMS) < COUNTS[:, None]
FILL = 0.75


def batch() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(4, ATOMS, 3, generator=generator, dtype=torch.float64) + torch.tensor([2.0, 1.0, -1.0])
    return torch.where(MASK[..., None], pos, FILL)


class Centred(nn.Module):
    """``|x_0 − m|²`` with m the mean over all places of the batch, or over the atoms that are there."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.masked, self.seen = masked, list[Tensor]()

    def forward(self, pos: Tensor, mask: Tensor) -> dict[str, Tensor]:
        self.seen.append(pos.detach().clone())
        weights = mask[..., None].to(pos) if self.masked else torch.ones_like(pos[..., :1])
        middle = (pos * weights).sum(1) / weights.sum(1)
        return {"energy": (pos[:, 0] - middle).square().sum(-1)}


def expected() -> Tensor:
    """About the centroid c, ``x_0 − m = g y_0 + s`` with ``s = (1 − n/N)(c − fill)``: variance ``4/3 |s|² |y_0|²``."""
    pos = batch()
    centre = torch.where(MASK[..., None], pos, 0.0).sum(1) / COUNTS[:, None]
    shift = (1 - COUNTS[:, None] / ATOMS) * (centre - FILL)
    return 4 / 3 * shift.square().sum(-1) * (pos[:, 0] - centre).square().sum(-1)


@pytest.mark.parametrize("schema_mask", ["mask", None], ids=["declared", "among the inputs"])
@pytest.mark.parametrize("masked", [False, True])
def test_twirl_rotates_what_the_mask_holds(schema_mask: str | None, masked: bool) -> None:
    """The tetrahedral group averages squares of what is linear in g exactly, so there is no sampling error."""
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar}, mask=schema_mask)
    inputs, model = {"pos": batch(), "mask": MASK}, Centred(masked=masked)
    orbit = ep.twirl(lambda given: model(given["pos"], given["mask"]), inputs, schema, progress=False)
    found = ep.decompose(orbit, structures="leading").per_structure["equiv"]
    torch.testing.assert_close(found, torch.zeros(4).double() if masked else expected(), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_probe_reads_the_same() -> None:
    """Over 400 steps of two rotations each: within four standard errors, and far from nothing."""
    model, pos = Centred(masked=False), batch()
    with ep.Probe(model, every=1) as probe:
        for _ in range(400):
            model(pos, MASK)
    found = probe.compute(window=False)
    value, error = (float(found[f"equiv/train/energy/L_equiv{end}"]) for end in ("", "_stderr"))
    assert abs(value - float(expected().mean())) < 4 * error < 0.5 * value


@pytest.mark.parametrize("held", [False, True], ids=["as it came", "set to zero"])
def test_outputs_that_are_padding_do_not_count(held: bool) -> None:
    """Places that are given back, with padding as it came or set to zero: an equivariant model either way."""

    def denoise(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"pos": torch.where(given["mask"][..., None], given["pos"], 0.0 if held else given["pos"])}

    schema = ep.Schema({"pos": ep.point}, {"pos": ep.point}, mask="mask")
    orbit = ep.twirl(denoise, {"pos": batch(), "mask": MASK}, schema, progress=False)
    assert float(ep.decompose(orbit).equiv) < 1e-28


def test_augmentation_leaves_padding_alone() -> None:
    model, pos = Centred(masked=True).train(), batch()
    with ep.augment(model, ep.Schema({"pos": ep.point}, {"energy": ep.scalar}, mask="mask")):
        model(pos, MASK)
    seen = model.seen[-1]
    assert torch.equal(seen[~MASK], pos[~MASK])
    assert float((seen - pos)[MASK].norm(dim=-1).min()) > 0.01, "atoms rotate"
    middle = torch.where(MASK[..., None], seen - pos, 0.0).sum(1)
    torch.testing.assert_close(middle, torch.zeros_like(middle), rtol=0, atol=1e-12)


def test_a_mask_of_three_atoms_is_no_mask_of_a_vector() -> None:
    """A dipole ``(B, 3)`` has the shape of a mask of three atoms, and rotates whole."""
    pos, mask = batch()[:, :3], torch.tensor([[True, True, False]]).expand(4, 3)
    schema = ep.Schema({"pos": ep.point}, {"middle": ep.point, "dipole": ep.vector}, mask="mask")

    def model(given: dict[str, Tensor]) -> dict[str, Tensor]:
        first, second = given["pos"][:, 0], given["pos"][:, 1]
        return {"middle": (first + second) / 2, "dipole": first - second}

    orbit = ep.twirl(model, {"pos": pos, "mask": mask}, schema, progress=False)
    assert float(ep.decompose(orbit).equiv) < 1e-28


@pytest.mark.parametrize("most", [1, 3])
def test_a_mask_with_another_use_leaves_all_atoms_rotating(most: int) -> None:
    """Atoms that are given, not predicted: what the mask leaves out is no padding."""
    pos = torch.randn(4, ATOMS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = torch.arange(ATOMS) < torch.tensor([0, 1, 1, most])[:, None]
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    model = Centred(masked=False)
    orbit = ep.twirl(lambda one: model(one["pos"], one["mask"]), {"pos": pos, "mask": ~given}, schema, progress=False)
    assert float(ep.decompose(orbit, structures="leading").equiv) < 1e-28
    seen = {float((one - pos).norm(dim=-1).min()) > 0 for one in model.seen if not torch.equal(one, pos)}
    assert seen == {True}, "every atom moves"
