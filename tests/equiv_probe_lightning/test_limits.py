"""Limits on the share: a warning at the evaluation that passes one, an error at the end, and neither by chance."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning.limits import Limits

from .lightning_models import MATRIX, LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

# f(x) = M x with labels 1.5 x: L_equiv = (⟨M²⟩ − (4/3)²) ⟨x²⟩, L_mean = (1.5 − 4/3)² ⟨x²⟩, for ⟨x²⟩ of isotropic x.
SHARE = 2 / 9 / (2 / 9 + 1 / 36)


def fit(tmp_path: Path, *, fit_only: bool = False, **limits: Any) -> list[str]:
    """What is warned of above limits in a fit at a learning rate of zero, where the share is known."""
    callback = EquivarianceCallback(
        every=1, full=1, cost=None, plan="tetrahedral", report=str(tmp_path / "r.json"), **limits
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(tmp_path, callbacks=[callback], max_epochs=2)
        run.fit(LinearModule("tensor"), loader("tensor"), None if fit_only else loader("tensor", seed=1))
    return [str(one.message) for one in caught if "broken symmetry" in str(one.message)]


def test_the_share_is_the_closed_form() -> None:
    assert pytest.approx(float(MATRIX.square().trace() / 3 - (MATRIX.trace() / 3) ** 2)) == 2 / 9
    assert pytest.approx(0.8889, abs=1e-4) == SHARE


def test_below_its_limits_a_run_hears_nothing(tmp_path: Path) -> None:
    assert fit(tmp_path, warn_above=SHARE + 0.05, fail_above=SHARE + 0.05) == []


@pytest.mark.slow
def test_a_warning_comes_once_and_the_run_goes_on(tmp_path: Path) -> None:
    (warned,) = fit(tmp_path, warn_above=SHARE - 0.1)
    assert warned.startswith("equiv/val/")
    assert f"more than {100 * (SHARE - 0.1):g} %" in warned
    assert (tmp_path / "r.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fit_only", [False, True], ids=["of the validation", "of the training alone"])
def test_the_run_ends_with_an_error_after_its_report_was_saved(tmp_path: Path, fit_only: bool) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"a share of [78]\d\.?\d* % of .*at most 50 %"):
        fit(tmp_path, fail_above=0.5, fit_only=fit_only)
    assert ep.load(tmp_path / "r.json").measured


def test_what_was_not_measured_is_not_waved_through(tmp_path: Path) -> None:
    limits = Limits(None, 0.5)
    empty = ep.Report(model="", source="", protocol={}, measured=[])
    assert limits.exceeded(empty) == "no share of a loss that was measured"
    assert Limits(0.5, None).exceeded(empty) == ""


def test_chance_passes_a_limit_of_the_true_share_in_one_of_forty() -> None:
    """Normal errors: the lower end of two standard errors lies above the truth with probability 0.023."""
    draws = 0.3 + 0.05 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    count = 0
    for share in draws:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Limits(0.3, None).look({"a/share": share, "a/share_stderr": torch.tensor(0.05)})
        count += len(caught)
    assert 25 <= count <= 67  # 45.5 ± 6.7, three of these either way


@pytest.mark.parametrize("limits", [{"warn_above": 10.0}, {"fail_above": 0.0}, {"fail_above": -1.0}])
def test_percent_and_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ep.EquivProbeError, match="between 0 and 1"):
        EquivarianceCallback(**limits)
