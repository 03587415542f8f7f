"""A guard of releases fails where an error grew by more than chance and the limit, and where it cannot see."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from equiv_probe.cli import main as cli
from equiv_probe.estimation.controls import Control
from equiv_probe.results.comparison import compare
from equiv_probe.results.regressions import regressions

from ..page_reports import measured, sampled_report

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.results.report import Report


def report(name: str, factor: float = 1.0, *, seed: int = 0, count: int = 200, noise: float = 0.2) -> Report:
    """``L_equiv`` of structures that are harder or easier, times the square of a factor, with noise of each report."""
    hardness = np.exp(np.random.default_rng(99).standard_normal(count))
    equiv = factor**2 * hardness * np.exp(noise * np.random.default_rng(seed).standard_normal(count))
    return sampled_report(name, equiv, 5 * equiv, np.full(count, 9.0))


def found(old: Report, new: Report, limit: float = 0.05) -> list[str]:
    return regressions(compare([old, new], ["old", "new"]), [old, new], limit)


def changed(one: Report, **changes: Any) -> Report:
    return replace(one, measured=[replace(one.measured[0], **changes)])


@pytest.mark.parametrize(
    ("factor", "limit", "fails"),
    [(1.2, 0.05, True), (1.2, 0.3, False), (0.8, 0.05, False), (1.03, 0.0, True), (1.03, 0.05, False)],
)
def test_growth_counts_above_the_limit(factor: float, limit: float, fails: bool) -> None:
    lines = found(report("old", noise=0.02), report("new", factor, seed=1, noise=0.02), limit)
    assert bool(lines) is fails
    if fails:
        assert f"√L_equiv of new is {factor:.2f}"[:-1] in lines[0]


@pytest.mark.slow
def test_chance_alone_fails_one_guard_in_twenty_at_most_and_growth_practically_always() -> None:
    """Ten structures and much noise: of 200 pairs without a change about 2.5 % are significantly larger, one-sided."""
    old = [report("old", seed=2 * k, count=10, noise=0.5) for k in range(200)]
    same = [report("new", seed=2 * k + 1, count=10, noise=0.5) for k in range(200)]
    assert sum(bool(found(a, b)) for a, b in zip(old, same, strict=True)) <= 16  # 0.05 at most, three σ of it
    grown = [report("new", 9.0, seed=2 * k + 1, count=10, noise=0.5) for k in range(50)]
    assert all(found(a, b) for a, b in zip(old[:50], grown, strict=True))


def test_rounding_that_became_an_error_counts_whatever_its_size() -> None:
    old, new = report("old"), report("new", 0.5)
    assert found(changed(old, verdict="round-off"), new) == [
        f"forces: √L_equiv was rounding in old, and is {new.measured[0].rms:.3g} meV/Å in new"
    ]
    rounding = {"verdict": "round-off"}
    assert found(changed(old, **rounding), changed(report("new", 9.0), **rounding)) == []


def test_what_the_guard_cannot_see_fails() -> None:
    old = report("old")
    both = replace(old, measured=[*old.measured, measured("energy", "meV/atom")])
    assert found(both, old) == ["energy: not measured in new"]
    failed = replace(old, controls=[Control("sees the rotation", False, "the outputs are always the same")])
    assert found(old, failed) == ["a control of new failed: its numbers are not to be believed"]
    one, other = (changed(report(name, factor, count=1), structures=1) for name, factor in (("old", 1.0), ("new", 2.0)))
    assert "without an error bar" in found(one, other)[0]


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report("old", noise=0.02).save(tmp_path / "old.json")
    report("new", 1.2, seed=1, noise=0.02).save(tmp_path / "new.json")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["equiv-probe", "compare", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert run("old.json", "new.json") == 0
    assert run("old.json", "new.json", "--fail-on-regression") == 1
    assert "--fail-on-regression: forces: √L_equiv of new is 1.2" in capsys.readouterr().err
    assert run("old.json", "new.json", "--fail-on-regression", "--limit", "0.5") == 0
    assert run("new.json", "old.json", "--fail-on-regression") == 0
