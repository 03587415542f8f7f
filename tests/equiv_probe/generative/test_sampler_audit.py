"""The audit of samplers against closed forms, and its layouts: dense, masked, flat, single, paths, several outputs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.generative.deviation import interval
from equiv_probe.generative.initial_noise import InitialNoise
from equiv_probe.rotations.haar import haar

from .samplers import HAAR4, Egnn, euler, langevin, quiet, rotations

DOUBLE = {"dtype": torch.float64}


def test_linear_sampler_sample_by_sample(matrix: Tensor) -> None:
    """``x₁ = A ε``: rotated back it is ``g⁻¹ A g ε``, so that every deviation is known; float64, to rounding."""
    audit = quiet(lambda noise: noise @ matrix.mT, (6, 5, 3), seed=3)
    noise = InitialNoise((6, 5, 3), dtype=torch.float64).draw(3)
    g = rotations(HAAR4, 6)
    gap = torch.einsum("kuab,unb->kuna", g.mT @ matrix @ g - matrix, noise)
    expected = gap.square().sum(-1).mean(-1)
    found = torch.tensor([entry["rms"] for entry in audit["end points"].by_sample], dtype=torch.float64)
    assert (found - expected.mean(0).sqrt()).abs().max() < 1e-12
    assert abs(audit.rms - float(expected.mean().sqrt())) < 1e-12
    assert abs(audit["end points"].over_rotations["max"] - float(expected.max().sqrt())) < 1e-12
    assert audit["end points"].over_samples["worst"] == int(expected.mean(0).argmax())
    assert audit.verdict == "broken"


def test_linear_sampler_in_the_mean(matrix: Tensor) -> None:
    """``E|g⁻¹Ag ε − Aε|² = 2(‖A‖² − tr(A)²/3)``, the spread of the orbit half of that; 5 σ of 4000 samples is 6 %."""
    one = quiet(lambda noise: noise @ matrix.mT, (4000, 3, 3))["end points"]
    broken = float(matrix.square().sum() - matrix.trace() ** 2 / 3)
    assert abs(one.rms / math.sqrt(2 * broken) - 1) < 0.06
    assert abs(one.spread / math.sqrt(broken) - 1) < 0.06
    assert one.rms_interval[0] < math.sqrt(2 * broken) < one.rms_interval[1]
    other = float(2 * matrix.square().sum())
    assert abs(one.scale / math.sqrt(other) - 1) < 0.06, "end points of independent noise"


def test_spread_is_unbiased_where_the_deviation_is_not_twice_it(matrix: Tensor) -> None:
    """About the twirl, not about the unrotated frame: exact for a design that averages the orbit exactly."""
    noise = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    one = quiet(lambda x: x @ matrix.mT, noise, plan=ep.RotationPlan("octahedral", 2))["end points"]
    traceless = matrix - matrix.trace() / 3 * torch.eye(3, **DOUBLE)
    dense = ep.RotationPlan("lebedev-7", 1).rotations()[0]
    weights = ep.RotationPlan("lebedev-7", 1).weights
    orbit = torch.einsum("kab,unb->kuna", dense.mT @ traceless @ dense, noise)
    exact = torch.einsum("k,kuna->una", weights, orbit.square()).sum(-1).mean()
    assert abs(one.spread / float(exact.sqrt()) - 1) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_langevin_is_equivariant_because_later_noise_rotates(dtype: torch.dtype) -> None:
    audit = quiet(langevin, (16, 4, 3), dtype=dtype)
    assert audit.verdict == "round-off"
    assert audit.rms < 100 * torch.finfo(dtype).eps
    assert [(d["call"], d["shape"], d["times"], d["turned"]) for d in audit.draws] == [
        ("randn_like", [16, 4, 3], 12, True)
    ]
    assert audit.draws[0]["where"].startswith("samplers.py:")


def test_later_noise_that_does_not_rotate_shows() -> None:
    """Negative control: the same sampler, its later noise left as it is, is off by what that noise makes."""
    audit = quiet(langevin, (400, 4, 3), rotates=lambda draw: False)
    # x = Σ 0.9^(11−k) 0.3 z_k; rotated back and not: independent directions in the mean, variance 2·3 per atom.
    expected = math.sqrt(2 * 3 * sum((0.3 * 0.9**k) ** 2 for k in range(12)))
    assert abs(audit.rms / expected - 1) < 0.06
    assert audit.verdict == "broken"


def test_langevin_with_an_axis_follows_the_linear_algebra() -> None:
    """Every draw of the run is recorded and the rotated runs are computed by hand; float64, to rounding."""
    drawn: list[Tensor] = []

    def recording(noise: Tensor, randn: Any) -> Tensor:
        x = noise
        drawn.append(x)
        for _ in range(5):
            drawn.append(randn(x.shape))
            x = 0.9 * x * torch.tensor([1.0, 1.0, 0.5], **DOUBLE) + 0.3 * drawn[-1]
        return x

    def by_hand(steps: list[Tensor]) -> Tensor:
        x = steps[0]
        for z in steps[1:]:
            x = 0.9 * x * torch.tensor([1.0, 1.0, 0.5], **DOUBLE) + 0.3 * z
        return x

    audit = quiet(recording, (3, 4, 3))
    plain = drawn[:6]
    expected = torch.stack(
        [
            (by_hand([z @ g.mT for z in plain]) @ g - by_hand(plain)).square().sum(-1).mean(-1)
            for g in rotations(HAAR4, 3)
        ]
    )
    assert abs(audit.rms - float(expected.mean().sqrt())) < 1e-12
    assert audit.rms > 0.1


def test_a_network_with_a_preferred_axis_is_told_from_one_without() -> None:
    torch.manual_seed(0)
    network = Egnn()
    good = quiet(euler(network), (8, 5, 3), zero_mean=True)
    assert good.verdict == "round-off"
    assert good.rms < 1e-13
    network.axis = 0.3
    bad = quiet(euler(network), (8, 5, 3), zero_mean=True)
    assert bad.verdict == "broken"
    assert bad.rms > 0.1


def test_dense_masked_and_flat_agree(matrix: Tensor) -> None:
    """The same three samples of 5, 3 and 4 atoms, padded and joined; padding does not count."""
    sizes = torch.tensor([5, 3, 4])
    mask = torch.arange(5) < sizes[:, None]
    batch = torch.arange(3).repeat_interleave(sizes)
    dense = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    padded = quiet(lambda x: x @ matrix.mT + 100 * (~mask)[..., None], dense, mask=mask)
    flat = quiet(lambda x: x @ matrix.mT, dense[mask], batch=batch)
    alone = quiet(lambda x: x @ matrix.mT, dense[0])
    assert abs(padded.rms - flat.rms) < 1e-12
    assert abs(padded["end points"].spread - flat["end points"].spread) < 1e-12
    first = padded["end points"].by_sample[0]["rms"]
    assert padded["end points"].samples == flat["end points"].samples == 3
    assert alone["end points"].samples == 1
    g, noise = rotations(HAAR4, 1)[:, 0], dense[0]
    by_hand = ((noise @ g.mT @ matrix.mT @ g - noise @ matrix.mT).square().sum(-1).mean(-1)).mean().sqrt()
    assert abs(alone.rms - float(by_hand)) < 1e-12
    assert first > 0.1


@pytest.mark.parametrize("layout", ["masked", "flat", "single"])
def test_later_noise_rotates_in_every_layout(layout: str) -> None:
    batch = torch.arange(3).repeat_interleave(torch.tensor([5, 3, 4]))
    options: dict[str, Any] = {
        "masked": {"noise": (3, 5, 3), "mask": torch.arange(5) < torch.tensor([[5], [3], [4]])},
        "flat": {"noise": (12, 3), "batch": batch},
        "single": {"noise": (6, 3)},
    }[layout]
    shape = options.pop("noise")
    audit = quiet(langevin, shape, **options, zero_mean=True)
    assert audit.verdict == "round-off"
    assert quiet(lambda x: langevin(x, 2.0), shape, **options, zero_mean=True).verdict == "broken"


def test_zero_mean_noise_of_any_layout() -> None:
    batch = torch.arange(3).repeat_interleave(torch.tensor([5, 3, 4]))
    flat = InitialNoise((12, 3), batch=batch, zero_mean=True, dtype=torch.float64).draw(0)
    assert all(part.mean(0).abs().max() < 1e-14 for part in flat.split([5, 3, 4]))
    mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
    dense = InitialNoise((3, 5, 3), mask=mask, zero_mean=True, dtype=torch.float64).draw(0)
    assert dense.sum(1).abs().max() < 1e-14
    assert bool((dense[~mask] == 0).all())
    assert 0.5 < dense[mask].std() < 1.5


def test_residues_of_several_atoms(matrix: Tensor) -> None:
    """Noise ``(B, N, A, 3)`` with a mask of atoms is the same molecules as ``(B, N·A, 3)``."""
    mask = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) < 0.7
    noise = InitialNoise((3, 4, 2, 3), mask=mask, zero_mean=True, dtype=torch.float64).draw(0)
    assert noise.sum((1, 2)).abs().max() < 1e-14
    nested = quiet(lambda x: x @ matrix.mT, noise, mask=mask)
    flat = quiet(lambda x: x @ matrix.mT, noise.flatten(1, 2), mask=mask.flatten(1))
    assert abs(nested.rms - flat.rms) < 1e-13
    assert quiet(langevin, (3, 4, 2, 3), mask=mask).verdict == "round-off"


def test_a_chaotic_sampler_is_compared_with_its_own_floor() -> None:
    """Lengths that follow the logistic map double every error at every step: far above the rounding of the numbers."""

    def chaotic(noise: Tensor) -> Tensor:
        length = noise.norm(dim=-1, keepdim=True)
        r = length / (1 + length)
        for _ in range(15):
            r = 4 * r * (1 - r)
        return noise / length * r

    audit = quiet(chaotic, (64, 4, 3), dtype=torch.float32)
    assert audit["end points"].floor > 1e-4
    assert audit.rms > 1e-4
    assert audit.verdict == "round-off"


@pytest.mark.parametrize("shared", [False, True])
def test_intervals_cover(shared: bool, matrix: Tensor) -> None:
    """95 % intervals of a linear sampler's deviation, 32 samples; 1000 repetitions know the share to 0.7 %.

    With rotations that all samples share there are few of them, and the interval is wide and rather too sure.
    """
    generator = torch.Generator().manual_seed(0)
    repetitions, samples, replicates = 1000, 32, 8
    exact = math.sqrt(2 * float(matrix.square().sum() - matrix.trace() ** 2 / 3))
    covered = 0
    for _ in range(repetitions):
        g = haar(replicates * (1 if shared else samples), generator).reshape(replicates, -1, 3, 3)
        noise = torch.randn(samples, 5, 3, generator=generator, **DOUBLE)
        gap = torch.einsum("ruab,unb->runa", (g.mT @ matrix @ g - matrix).expand(-1, samples, 3, 3), noise)
        low, high = interval(gap.square().sum(-1).mean(-1), shared=shared)
        covered += low < exact < high
    assert covered / repetitions > (0.9 if shared else 0.925)
    assert covered / repetitions < 0.985


def test_several_outputs_each_by_its_representation() -> None:
    """Positions and velocities rotate, a scalar and a matrix of rank two do as well; each wrong declaration shows."""
    right = {"x": ep.point, "v": ep.vector, "q": ep.scalar, "s": ep.tensor(2)}

    def several(noise: Tensor) -> dict[str, Tensor]:
        moved = torch.einsum("una,unb->uab", noise, noise)
        return {"x": 2 * noise, "v": -noise, "q": noise.square().sum((1, 2)), "s": moved, "rest": noise[:, 0, 0]}

    audit = quiet(several, (4, 5, 3), outputs=right)
    assert [one.name for one in audit.measured] == list(right)
    assert {one.verdict for one in audit.measured} == {"round-off"}
    for name, wrong in (("v", ep.scalar), ("s", ep.scalar), ("rest", ep.scalar)):
        assert quiet(several, (4, 5, 3), outputs={name: wrong}).verdict == "broken"
    with pytest.raises(ep.EquivProbeError, match="outputs="):
        quiet(several, (4, 5, 3))


def test_centre_of_rotation() -> None:
    """A sampler around a fixed place is equivariant about that place alone."""
    place = torch.tensor([1.0, 2.0, 3.0], **DOUBLE)
    noise = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), **DOUBLE) + place

    def towards(x: Tensor) -> Tensor:
        return place + 0.5 * (x - place) + 0.1 * torch.randn_like(x)

    assert quiet(towards, noise, center=place).verdict == "round-off"
    assert quiet(towards, noise).verdict == "broken"
    assert quiet(lambda x: x + x.mean(1, keepdim=True), noise, center="centroid").verdict == "broken"
    assert quiet(lambda x: 2 * x - x.mean(1, keepdim=True), noise, center="centroid").verdict == "round-off"


@pytest.mark.parametrize("how", ["tensor", "yields", "list of dicts"])
def test_deviation_along_the_path(how: str, matrix: Tensor) -> None:
    """``x_t = (1 + t A) ε`` deviates in proportion to t."""

    def points(noise: Tensor) -> Any:
        return (noise + t * noise @ matrix.mT for t in (0.0, 0.5, 1.0))

    samplers = {
        "tensor": lambda noise: torch.stack(list(points(noise))),
        "yields": points,
        "list of dicts": lambda noise: [{"pos": x} for x in points(noise)],
    }
    audit = quiet(samplers[how], (4, 5, 3), path=True)
    one = audit.measured[0]
    along = [entry["rms"] for entry in one.along_path]
    assert along[0] < 1e-14
    assert abs(along[1] / along[2] - 0.5) < 1e-12
    assert abs(along[2] - one.rms) < 1e-14
    assert abs(one.rms - quiet(lambda noise: noise + noise @ matrix.mT, (4, 5, 3)).rms) < 1e-12


def test_samples_that_diverge_are_left_out_and_listed(matrix: Tensor) -> None:
    def diverging(noise: Tensor) -> Tensor:
        x = noise @ matrix.mT
        x[2] = math.nan
        return x

    audit = quiet(diverging, (5, 4, 3))
    assert [entry["name"] for entry in audit.failures] == ["sample 2"]
    assert [entry["sample"] for entry in audit["end points"].by_sample] == [0, 1, 3, 4]
    noise = InitialNoise((5, 4, 3), dtype=torch.float64).draw(0)
    good = torch.tensor([0, 1, 3, 4])
    g = rotations(HAAR4, 5)[:, good]
    gap = torch.einsum("kuab,unb->kuna", g.mT @ matrix @ g - matrix, noise[good])
    assert abs(audit.rms - float(gap.square().sum(-1).mean().sqrt())) < 1e-12
    with pytest.raises(ep.EquivProbeError, match="not finite"):
        quiet(lambda noise: noise / 0, (5, 4, 3))


def test_numbers_of_atoms_or_steps_that_change_from_run_to_run() -> None:
    lengths = iter(range(5, 100))
    with pytest.raises(ep.EquivProbeError, match="first run"):
        quiet(lambda x: torch.stack([x] * next(lengths)), (4, 5, 3), path=True)


def test_what_is_printed_saved_and_drawn(tmp_path: Any, matrix: Tensor) -> None:
    audit = quiet(lambda noise: torch.stack([noise, noise @ matrix.mT]), (6, 5, 3), path=True, unit="nm")
    shown = str(audit)
    assert "broken" in shown
    assert "nm" in shown
    assert f"{audit.rms:.2f}" in shown
    audit.save(tmp_path / "audit.json")
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert (stored["kind"], stored["schema_version"]) == ("sampler", 2)
    assert stored["measured"][0]["rms"] == audit.rms
    assert stored["protocol"]["runs"] == 8
    with pytest.raises(ep.EquivProbeError, match=r"\.json"):
        audit.save(tmp_path / "audit.txt")
    pytest.importorskip("matplotlib", reason="figures need Matplotlib")
    figure = audit.plot()
    below = figure.axes[0].lines[0].get_xdata()
    assert list(below[1:]) == sorted(entry["rms"] for entry in audit["end points"].by_sample)
    line = figure.axes[1].lines[0].get_ydata()
    assert list(line) == [entry["rms"] for entry in audit["end points"].along_path]
