"""Labels that do not rotate along with the positions: what happened to them instead is found and said."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003

import pytest
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.augmentation.sample_layout import generic_sample

from .augmentations import rotating, scipy_rotation

OTHERWISE: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor], str]] = {
    "stale forces": ("forces", lambda g, x: x, "stale"),
    "stale dipole": ("dipole", lambda g, x: x, "stale"),
    "stale stress": ("stress", lambda g, x: x, "stale"),
    "inverse forces": ("forces", lambda g, x: x @ g, "inverse"),
    "inverse dipole": ("dipole", lambda g, x: x @ g, "inverse"),
    "inverse stress": ("stress", lambda g, x: g.T @ x @ g, "inverse"),
    "stress on one side": ("stress", lambda g, x: g @ x, "but not as the positions do"),
    "cell by columns": ("cell", lambda g, x: g @ x, "columns"),
    "other rotation": ("forces", lambda g, x: x @ scipy_rotation().T, "something else"),
    "noisy forces": ("forces", lambda g, x: x @ g.T + 0.01 * torch.randn_like(x), "but not as the positions do"),
    "energy changes": ("energy", lambda g, x: x + 1e-3, "scalar"),
    "numbers change": ("z", lambda g, x: x.flip(0), "does not rotate"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_labels_that_do_not_rotate_along(case: str) -> None:
    name, how, words = OTHERWISE[case]
    check = ep.check_augmentation(rotating(scipy_rotation, **{name: how}), draws=60)
    wrong = check[f"labels: {name}"]
    assert wrong.passed is False
    assert words in wrong.sentence
    assert [one.name for one in check.wrong] == [wrong.name], "nothing else is blamed"


@pytest.mark.slow
def test_voigt_stress_in_another_order() -> None:
    ase, other = ep.voigt(), ep.voigt("xx yy zz xy yz xz")
    sample = {"pos": generic_sample()["pos"], "stress": torch.randn(6, dtype=torch.float64)}
    for schema, passed in ((None, False), (ep.Schema({"pos": ep.point}, {"stress": other}), True)):
        check = ep.check_augmentation(rotating(scipy_rotation, stress=lambda g, x: other.rotate(x, g)), sample, schema)
        assert check["labels: stress"].passed is passed
    assert (
        "xx yy zz xy yz xz"
        in ep.check_augmentation(rotating(scipy_rotation, stress=lambda g, x: other.rotate(x, g)), sample)[
            "labels: stress"
        ].sentence
    )
    assert ep.check_augmentation(rotating(scipy_rotation, stress=lambda g, x: ase.rotate(x, g)), sample).ok


def test_what_cannot_be_judged_is_said_and_not_blamed() -> None:
    sample = {**generic_sample(), "forces": torch.zeros(6, 3), "stress": 2 * torch.eye(3), "y": torch.randn(6, 3)}
    check = ep.check_augmentation(
        rotating(
            lambda: scipy_rotation().float(),
            cell=lambda g, x: x @ g.double().T,
            pos=lambda g, x: x @ g.double().T,
            dipole=lambda g, x: g.double() @ x,
        ),
        sample,
    )
    assert check.ok
    for name in ("forces", "stress", "y"):
        assert check[f"labels: {name}"].passed is None
    assert "declare it" in check["labels: y"].sentence
    declared = ep.Schema(inputs={"pos": ep.point}, outputs={"y": ep.vector})
    moved = rotating(scipy_rotation, forces=lambda g, x: x, stress=lambda g, x: x)
    assert "stale" in ep.check_augmentation(moved, sample, declared)["labels: y"].sentence


@pytest.mark.parametrize("name", ["y", "extra"])
def test_entries_that_nobody_declared(name: str) -> None:
    """A denoising target is noise, of which nothing is known; a vector that rotates the wrong way is seen."""
    sample = {"pos": generic_sample()["pos"], name: torch.randn(6, 3, dtype=torch.float64)}
    cases: list[tuple[Callable[[Tensor, Tensor], Tensor], bool | None, str]] = [
        (lambda g, x: torch.randn_like(x), None, "changes from draw to draw"),
        (lambda g, x: x, None, "stays as it was"),
        (lambda g, x: x @ g.T, True, "as ep.vector"),
        (lambda g, x: x @ g, False, "inverse"),
        (lambda g, x: x @ scipy_rotation(), False, "something else"),
    ]
    for how, passed, words in cases:
        finding = ep.check_augmentation(rotating(scipy_rotation, **{name: how}), sample, draws=60)[f"labels: {name}"]
        assert finding.passed is passed
        assert words in finding.sentence


def test_a_small_change_of_the_energy_is_seen_beside_rough_positions() -> None:
    """Positions in float32 far from the origin tell the rotation badly; a scalar needs no rotation."""
    sample = {"pos": generic_sample()["pos"].float() + 1000, "energy": torch.ones(1)}
    how = rotating(lambda: scipy_rotation().float(), energy=lambda g, x: x + 1e-4)
    assert ep.check_augmentation(how, sample, draws=60)["labels: energy"].passed is False


def test_empty_entries_and_numbers() -> None:
    sample = {"pos": generic_sample()["pos"], "forces": torch.zeros(0, 3), "energy": -1.5, "n": 6, "name": "x"}
    transform = rotating(scipy_rotation, forces=lambda g, x: x)
    assert ep.check_augmentation(transform, sample, draws=60).ok
    worse = ep.check_augmentation(lambda s: {**transform(s), "energy": s["energy"] + 1}, sample, draws=60)
    assert [one.name for one in worse.wrong] == ["labels: energy"]
