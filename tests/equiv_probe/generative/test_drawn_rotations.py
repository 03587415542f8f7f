"""Samplers that draw rotations: recognised however they are made, taken along where that is as likely, else not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.generative.as_likely import chance_of_law
from equiv_probe.rotations.haar import angles, haar

from .drawn import (
    CONJUGATE,
    HAAR,
    augmented,
    axis_angle,
    euler,
    householder,
    oriented,
    quaternions,
    shrink,
    undone,
)
from .samplers import quiet

SHAPE = (6, 4, 3)
DOUBLE = {"dtype": torch.float64}


@pytest.mark.slow
@pytest.mark.parametrize("how", CONJUGATE)
def test_augmentation_that_is_never_undone(how: str) -> None:
    """Equivariant to rounding as ``g R g⁻¹``; with a denoiser that squeezes, broken; a single path owes all to R."""
    audit = quiet(augmented(CONJUGATE[how]), SHAPE)
    assert audit.verdict == "round-off"
    assert audit.rms < 1e-13
    assert "g R g⁻¹" in audit.sentence
    assert any('frames="conjugate"' in note and "drawn.py" in note for note in audit.notes)
    made = [draw for draw in audit.draws if draw["shape"] not in ([6, 4, 3], [6, 1, 3])]
    assert not any(draw["turned"] for draw in made), "draws that become rotations are no directions"
    broken = quiet(augmented(CONJUGATE[how], 0.7), SHAPE, law=False)
    assert broken.verdict == "broken"
    assert broken.rms > 0.05
    fixed = quiet(augmented(CONJUGATE[how]), SHAPE, frames="fixed")
    assert fixed.verdict == "broken", "negative control: the same rotations in every frame"


@pytest.mark.slow
def test_of_rows_of_single_precision_and_flat_batches() -> None:
    index = torch.arange(3).repeat_interleave(torch.tensor([3, 5, 4]))

    def flat(x: Tensor) -> Tensor:
        return shrink(torch.einsum("nij,nj->ni", quaternions(3)[index], x) + 0.1 * torch.randn_like(x))

    assert quiet(augmented(quaternions, rows=True), SHAPE).verdict == "round-off"
    single = quiet(augmented(quaternions), SHAPE, dtype=torch.float32)
    assert single.verdict == "round-off"
    assert single.rms < 1e-5
    assert quiet(flat, (12, 3), batch=index).verdict == "round-off"
    assert quiet(lambda x: flat(x) * torch.tensor([1.0, 1.0, 0.7], **DOUBLE), (12, 3), batch=index).verdict == "broken"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 4, 3), (5, 3, 3)])
def test_matrices_that_look_like_the_noise(shape: tuple[int, ...]) -> None:
    """As many samples as atoms, or three atoms: Gaussian matrices for the QR are laid out like noise, and are none."""
    for how in ("mended", "quaternions"):
        assert quiet(augmented(HAAR[how]), shape).verdict == "round-off"
        assert quiet(augmented(HAAR[how], 0.7), shape, law=False).verdict == "broken"


@pytest.mark.slow
@pytest.mark.parametrize("rows", [False, True])
def test_frames_that_are_undone(rows: bool) -> None:
    audit = quiet(undone(quaternions, rows=rows), SHAPE)
    assert audit.verdict == "round-off"
    assert ("g R" if rows else "R g⁻¹") in audit.sentence
    fixed = quiet(undone(quaternions, rows=rows), SHAPE, frames="fixed")
    assert fixed.verdict == "broken"
    assert quiet(undone(quaternions, rows=rows), SHAPE, frames="left" if rows else "right").verdict == "round-off"
    assert quiet(undone(quaternions, rows=rows), SHAPE, frames="conjugate", law=False).verdict == "broken"


@pytest.mark.parametrize("how", HAAR)
def test_orientations(how: str) -> None:
    audit = quiet(oriented(HAAR[how]), SHAPE)
    assert audit.verdict == "round-off"
    assert "g R" in audit.sentence


@pytest.mark.slow
@pytest.mark.parametrize("draw", [householder, axis_angle])
def test_orientations_that_prefer_a_direction_are_not_taken_along(draw: Any) -> None:
    """Rods by the QR as it comes point away from x; by a uniform angle they keep near x: broken, also in law.

    As ``g R`` their paths would rotate to rounding: only how likely the rotations are tells.
    """
    audit = quiet(oriented(draw), SHAPE)
    assert audit.verdict == "broken"
    assert audit["end points"].law["p_value"] < 0.01
    assert any("not as likely" in note for note in audit.notes)
    declared = quiet(oriented(draw), SHAPE, frames="left")
    assert declared.rms < 1e-13
    assert declared.verdict == "broken", "whatever is declared"


@pytest.mark.slow
def test_rotations_that_are_not_uniform_and_do_no_harm() -> None:
    """Equivariant in law with any augmentation, which paths do not show: said so, with a p-value; squeezed, broken."""
    audit = quiet(augmented(householder), (16, 4, 3))
    assert audit.verdict == "path only"
    assert audit["end points"].law["p_value"] > 0.01
    assert "in distribution" in audit.sentence
    assert quiet(augmented(householder, 0.7), (16, 4, 3)).verdict == "broken"


@pytest.mark.slow
def test_one_rotation_for_all_samples() -> None:
    """Which rotates no sample's own way: runs are compared whole, and the line to pass is said."""

    def sampler(x: Tensor) -> Tensor:
        for _ in range(3):
            x = shrink(x @ quaternions(1)[0] + 0.1 * torch.randn_like(x))
        return x

    audit = quiet(sampler, (16, 4, 3))
    assert audit.verdict == "path only"
    assert audit["end points"].law["by_run"] is True
    assert any("per_sample=False" in note for note in audit.notes)
    assert quiet(sampler, (16, 4, 3), per_sample=False).verdict == "round-off"
    assert quiet(lambda x: sampler(x[None])[0], (4, 3)).verdict == "round-off"
    with pytest.raises(ep.EquivProbeError, match="per_sample=False"):
        quiet(sampler, (16, 4, 3), frames="conjugate")


def test_rotations_that_are_gathered_and_undone_at_the_end() -> None:
    """Products of drawn rotations go along with their factors."""

    def sampler(x: Tensor) -> Tensor:
        total = torch.eye(3, **DOUBLE).expand(len(x), 3, 3)
        for _ in range(3):
            rotation = quaternions(len(x))
            x = shrink(torch.einsum("bij,bnj->bni", rotation, x) + 0.1 * torch.randn_like(x))
            total = rotation @ total
        return torch.einsum("bji,bnj->bni", total, x)

    assert quiet(sampler, SHAPE).verdict == "round-off"
    fixed = quiet(sampler, SHAPE, frames="fixed")
    assert fixed.verdict == "broken"


def test_frames_of_the_state_are_none_of_chance() -> None:
    """Local frames from positions, and constant matrices, are left alone."""
    constant = haar(1, torch.Generator().manual_seed(0))[0]
    before = constant.clone()

    def sampler(x: Tensor) -> Tensor:
        x = x + torch.randn_like(x)
        frame = torch.linalg.qr(x[:, :3].mT)[0]
        local = torch.einsum("bji,bnj->bni", frame, x) @ constant @ constant.mT
        return torch.einsum("bij,bnj->bni", frame, torch.tanh(local.abs()) * local.sign())

    audit = quiet(sampler, SHAPE)
    assert not any("became" in note for note in audit.notes)
    assert torch.equal(constant, before)


def test_declared_by_the_source() -> None:
    """``randn.rotations`` for augmentations and ``randn.orientations`` for bodies, in one sampler."""

    def sampler(x: Tensor, randn: Any) -> Tensor:
        rotated = torch.einsum("bij,bnj->bni", randn.rotations(len(x)), x)
        return shrink(rotated + randn(x)) + randn.orientations(*x.shape[:2]) @ torch.tensor([1.0, 0, 0], **DOUBLE)

    audit = quiet(sampler, SHAPE)
    assert audit.verdict == "round-off"
    assert {draw["call"] for draw in audit.draws} == {"randn", "rotations", "orientations"}
    wrong = quiet(lambda x, randn: torch.einsum("bij,bnj->bni", randn.orientations(len(x)), x), SHAPE)
    assert wrong.verdict == "broken"


def test_rotations_of_numpy() -> None:
    """SciPy's draw from NumPy's global state: refused with the way out, or taken along as all draws of it are."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation

    def draw(count: int) -> Tensor:
        return torch.from_numpy(rotation.random(count, random_state=np.random.mtrand._rand).as_matrix())

    with pytest.raises(ep.EquivProbeError, match=r"randn\.rotations"):
        quiet(augmented(draw), SHAPE)
    assert quiet(augmented(draw), SHAPE, foreign="same").verdict == "round-off"
    assert quiet(augmented(draw, 0.7), SHAPE, foreign="same", law=False).verdict == "broken"


def test_what_is_declared_must_be_there() -> None:
    with pytest.raises(ep.EquivProbeError, match=r"randn\.rotations"):
        quiet(lambda x: 2 * x, SHAPE, frames="conjugate")


def test_uniform_numbers_that_become_no_rotation_are_refused_as_ever() -> None:
    def sampler(x: Tensor) -> Tensor:
        return torch.einsum("bij,bnj->bni", euler(len(x)), x) + torch.rand(len(x), 1, 3, **DOUBLE)

    with pytest.raises(ep.EquivProbeError, match="not normal"):
        quiet(sampler, SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["left", "right", "conjugate"])
def test_how_likely_rotations_are(way: Any) -> None:
    """Haar draws are refused at the rate that is said, 400 repetitions (3 σ of 5 % are 3.3 %); others never pass.

    The tail of the test of axes is a fit, so that it is not asked for more than 10 %.
    """
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(0)  # without one haar draws from a seed of the system's
    chances = torch.tensor([chance_of_law(haar(100, source), way) for _ in range(40 if way == "conjugate" else 300)])
    assert (chances < 0.05).double().mean() < (0.12 if way == "conjugate" else 0.085)
    assert (chances < 1e-3).sum() <= 1
    assert chance_of_law(householder(300), way) < 1e-6
    assert chance_of_law(euler(400), way) < 1e-3
    about_any_axis = axis_angle(300)
    assert (
        chance_of_law(about_any_axis, way) > 1e-3 if way == "conjugate" else chance_of_law(about_any_axis, way) < 1e-6
    )
    assert float(angles(about_any_axis).mean()) < 1.8, "not Haar, of which the mean angle is 2.21"
