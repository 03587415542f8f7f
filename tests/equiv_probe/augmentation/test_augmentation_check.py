"""Augmentations of users: right ones pass, and each fault is found and said."""

from __future__ import annotations

import random
from collections.abc import Callable  # noqa: TC003
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.transforms import RandomRotate

import equiv_probe as ep
from equiv_probe.augmentation.sample_layout import generic_sample
from equiv_probe.rotations.haar import generators, haar

from .augmentations import Names, rotating, scipy_rotation, three_angles, verdicts

ALL_WELL = {
    "rigid": True,
    "proper": True,
    "Haar": True,
    "independent": True,
    "labels: forces": True,
    "labels: dipole": True,
    "labels: cell": True,
    "labels: stress": True,
    "what does not rotate": True,
    "in place": True,
}


@pytest.mark.parametrize("draw", [scipy_rotation, lambda: haar(1, torch.default_generator)[0]], ids=["scipy", "ours"])
def test_a_right_augmentation_passes(draw: Callable[[], Tensor]) -> None:
    check = ep.check_augmentation(rotating(draw))
    assert verdicts(check) == ALL_WELL
    assert check.ok
    assert check.rotations.shape == (400, 3, 3)
    check.raise_if_wrong()


def test_it_finds_the_rotations_that_were_drawn() -> None:
    drawn: list[Tensor] = []

    def draw() -> Tensor:
        drawn.append(scipy_rotation())
        return drawn[-1]

    check = ep.check_augmentation(rotating(draw), generic_sample())
    assert len(drawn) == 400, "one call for each draw"
    # float64 rounding of an SVD of numbers of order one.
    assert torch.allclose(check.rotations, torch.stack(drawn), atol=1e-12, rtol=0)


@pytest.mark.slow
def test_false_alarms_are_rarer_than_alpha() -> None:
    alarms = 0
    for seed in range(60):
        check = ep.check_augmentation(rotating(scipy_rotation), draws=60, alpha=0.2, seed=seed)
        alarms += not check.ok
    assert alarms <= 22, "20 % of 60, and 3.2 standard deviations"
    assert alarms >= 1, "the tests are not idle: two parts of three of the level are used"


def test_three_angles_are_not_haar() -> None:
    check = ep.check_augmentation(rotating(three_angles))
    assert verdicts(check) == {**ALL_WELL, "Haar": False}
    assert "Euler" in check["Haar"].sentence
    with pytest.raises(ep.EquivProbeError, match="three uniform Euler angles"):
        check.raise_if_wrong()


@pytest.mark.slow
def test_reflections_pass_only_where_they_are_wanted() -> None:
    def draw() -> Tensor:
        return scipy_rotation() * random.choice([-1, 1])

    check = ep.check_augmentation(rotating(draw))
    assert verdicts(check) == {**ALL_WELL, "proper": False}
    assert ep.check_augmentation(rotating(draw), improper=True).ok
    assert not ep.check_augmentation(rotating(scipy_rotation), improper=True)["Haar"].passed, "none is improper"


def test_no_rotation_at_all() -> None:
    check = ep.check_augmentation(dict)
    assert check["Haar"].sentence == "nothing is rotated"
    assert not check.ok


@pytest.mark.slow
def test_what_is_not_rigid() -> None:
    sample = {"pos": generic_sample()["pos"]}
    size = torch.tensor([1.0, 1.0, 1.1], dtype=torch.float64)
    cases: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "scaled by 1.2 to 1.2": lambda g, x: 1.2 * x @ g.T,
        "stretched by 1 to 1.1": lambda g, x: (x * size) @ g.T,
        "displaced": lambda g, x: (x + 0.05 * torch.randn_like(x)) @ g.T,
    }
    for words, how in cases.items():
        check = ep.check_augmentation(rotating(scipy_rotation, pos=how), sample)
        assert verdicts(check) == {"rigid": False, "proper": True, "Haar": True, "independent": True, "in place": True}
        assert words in check["rigid"].sentence
    # √(3 · 0.05²) Å for each atom, less the six degrees of freedom of the fit among eighteen.
    assert check["rigid"].statistic > 0.05
    found = float(check["rigid"].sentence.split(" by ")[1].split(" Å")[0])
    assert found == pytest.approx(0.05 * 3**0.5 * (12 / 18) ** 0.5, rel=0.05), "mean over 400 draws"


def test_rotation_about_any_centre_and_translation_are_rigid() -> None:
    def transform(sample: Names) -> Names:
        g, shift = scipy_rotation(), 10 * torch.randn(3, dtype=torch.float64)
        return {"pos": sample["pos"] @ g.T + shift, "coords": sample["coords"] @ g.T + shift}

    sample = {"pos": generic_sample()["pos"] + 5, "coords": torch.randn(4, 3, dtype=torch.float64)}
    assert ep.check_augmentation(transform, sample).ok
    stale = ep.check_augmentation(lambda s: {**transform(s), "coords": s["coords"]}, sample)
    assert "stale" in stale["labels: coords"].sentence


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32_positions_far_from_the_origin_pass(offset: float) -> None:
    sample = {"pos": generic_sample()["pos"].float() + offset, "forces": torch.randn(6, 3)}
    step = rotating(lambda: scipy_rotation().float())
    assert ep.check_augmentation(step, sample).ok


@pytest.mark.slow
def test_the_same_rotation_again() -> None:
    fixed = scipy_rotation()
    assert "cached" in ep.check_augmentation(rotating(lambda: fixed))["independent"].sentence
    few = haar(50)
    check = ep.check_augmentation(rotating(lambda: few[random.randrange(50)]))
    assert check["independent"].passed is False
    assert "only 50 different rotations in 400 draws" in check["independent"].sentence

    def seeded() -> Tensor:
        torch.manual_seed(0)
        return haar(1, torch.default_generator)[0]

    assert ep.check_augmentation(rotating(seeded))["independent"].passed is False


def test_draws_that_know_of_each_other() -> None:
    state = [torch.eye(3, dtype=torch.float64)]

    def walk() -> Tensor:
        state[0] = torch.linalg.matrix_exp((torch.randn(3)[:, None, None] * generators()).sum(0)) @ state[0]
        return state[0]

    assert "knows of the one before" in ep.check_augmentation(rotating(walk))["independent"].sentence


@pytest.mark.slow
def test_a_dense_batch() -> None:
    pos = torch.randn(4, 5, 3, dtype=torch.float64)

    def transform(batch: Names, count: int) -> Names:
        g = haar(count, torch.default_generator)
        return {"pos": batch["pos"] @ g.mT, "forces": batch["forces"] @ g.mT}

    batch = {"pos": pos, "forces": torch.randn_like(pos)}
    assert ep.check_augmentation(lambda b: transform(b, 4), batch)["per structure"].passed
    assert ep.check_augmentation(lambda b: transform(b, 4), batch).ok
    assert [one.name for one in ep.check_augmentation(lambda b: transform(b, 1), batch).wrong] == ["per structure"]


def test_a_transform_that_writes_into_the_sample_is_found_and_the_sample_is_safe() -> None:
    def in_place(sample: Names) -> Names:
        sample["pos"].copy_(sample["pos"] @ scipy_rotation().T)
        return sample

    def replacing(sample: Names) -> Names:
        sample["pos"] = sample["pos"] @ scipy_rotation().T
        return sample

    sample = {"pos": generic_sample()["pos"]}
    before = sample["pos"].clone()
    check = ep.check_augmentation(in_place, sample)
    assert check["in place"].passed is False
    assert "pos" in check["in place"].sentence
    assert check["Haar"].passed
    assert ep.check_augmentation(replacing, sample)["in place"].passed is None
    assert torch.equal(sample["pos"], before)


def states() -> list[Any]:
    numpy = np.random.get_state()[1].tobytes()  # noqa: NPY002 - what users' transforms draw from
    return [random.getstate(), numpy, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("fails", [False, True])
def test_global_random_states_are_as_before(fails: bool) -> None:
    def draw() -> Tensor:
        if fails and random.random() < 0.1:
            raise ValueError("the user's own")
        return scipy_rotation() @ haar(1, torch.default_generator)[0]

    before = states()
    if fails:
        with pytest.raises(ValueError, match="the user's own"):
            ep.check_augmentation(rotating(draw), generic_sample())
    else:
        ep.check_augmentation(rotating(draw))
    assert states() == before


def test_the_same_seed_gives_the_same_answer() -> None:
    a, b, c = (ep.check_augmentation(rotating(three_angles), draws=60, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.rotations, b.rotations)
    assert not torch.equal(a.rotations, c.rotations)
    assert [str(one) for one in a.findings] == [str(one) for one in b.findings]


@pytest.mark.slow
def test_samples_of_other_kinds() -> None:
    pos = generic_sample()["pos"]
    assert ep.check_augmentation(lambda x: x @ scipy_rotation().T).ok, "a tensor, found out by trying"
    assert ep.check_augmentation(lambda x: x @ scipy_rotation().numpy().T, pos.numpy()).ok

    def pair(sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        g = scipy_rotation()
        return sample[0] @ g.T, sample[1] @ g.T

    check = ep.check_augmentation(pair, (pos, pos.flip(0) * 2))
    assert "found out, not declared" in check["labels: 1"].sentence

    class Rotate(nn.Sequential):
        def forward(self, sample: Names) -> Names:
            return rotating(scipy_rotation)(sample)

    assert ep.check_augmentation(Rotate(nn.Identity())).ok


def test_errors_teach() -> None:
    flat = {"pos": torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]])}
    with pytest.raises(ep.EquivProbeError, match="not flat"):
        ep.check_augmentation(rotating(scipy_rotation), flat)
    with pytest.raises(ep.EquivProbeError, match="sample=dataset"):
        ep.check_augmentation(RandomRotate(180))
    with pytest.raises(ep.EquivProbeError, match="same atoms in the same order"):
        ep.check_augmentation(lambda s: {"pos": s["pos"][:4]}, generic_sample())
    with pytest.raises(ep.EquivProbeError, match=r"loader\.dataset"):
        ep.check_augmentation(torch.utils.data.DataLoader([generic_sample()]))
    with pytest.raises(ep.EquivProbeError, match="positions of shape"):
        ep.check_augmentation(lambda s: s, {"energy": torch.zeros(1)})
    with pytest.raises(ep.EquivProbeError, match="at least 50"):
        ep.check_augmentation(rotating(scipy_rotation), draws=10)
    with pytest.raises(ep.EquivProbeError, match="did you mean 'Haar'"):
        ep.check_augmentation(rotating(scipy_rotation), draws=50)["haar"]


@pytest.mark.slow
def test_the_table_says_it() -> None:
    text = str(ep.check_augmentation(rotating(three_angles, forces=lambda g, x: x)))
    assert "Augmentation, 400 draws: 2 faults" in text
    assert "✗  Haar" in text
    assert "✗  labels: forces" in text
    assert "mean angle 12" in text


def test_progress_of_draws_is_logged_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("equiv_probe.progress.PATIENCE", 0.0)
    with caplog.at_level("INFO", "equiv_probe"):
        ep.check_augmentation(rotating(scipy_rotation), draws=50, progress=False)
        assert "drawing" not in caplog.text
        ep.check_augmentation(rotating(scipy_rotation), draws=50)
    assert "drawing from the augmentation: 1 of 50" in caplog.text
