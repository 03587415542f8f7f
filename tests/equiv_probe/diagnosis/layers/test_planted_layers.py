"""One planted layer in networks of several kinds is found every time; without it everything is at rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import equiv_probe as ep

from .networks import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = range(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "layer"), [(name, layer) for name, family in FAMILIES.items() for layer in family.layers]
)
def test_the_planted_layer_is_found(family: str, layer: str) -> None:
    """It alone is named, adds all of the error, and patching it away leaves nothing."""
    for seed in SEEDS:
        found = ep.trace(*FAMILIES[family].make(seed, layer), seed=seed)
        assert [one.path for one in found.culprits] == [layer], seed
        culprit = found.culprits[0]
        assert culprit.adds == pytest.approx(1.0, abs=0.05)
        assert not culprit.broken_before
        assert f"{layer} " in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_found_where_nothing_is_broken(family: str) -> None:
    for seed in SEEDS:
        found = ep.trace(*FAMILIES[family].make(seed, None), seed=seed)
        assert found.culprits == []
        assert [one.label for one in found.layers if one.broken] == []
        relative = [one.relative for layer in found.layers for one in layer.outputs if one.how != "discrete"]
        assert max(relative) < 1e-4 if found.protocol["precision"] == "float32" else 1e-9
        assert "Nothing is broken" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_patching_with_what_was_there_removes_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the average, with each activation as it is, no call adds or removes anything."""
    from equiv_probe.diagnosis.layers import measuring

    def nothing(self: measuring.Patch, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(values)

    monkeypatch.setattr(measuring.Patch, "_replaced", nothing)
    planted = FAMILIES[family].layers[0]
    found = ep.trace(*FAMILIES[family].make(0, planted))
    asked = [one for one in found.layers if one.removed == one.removed]
    assert asked
    assert all(abs(one.removed) < 1e-9 for one in asked)
    culprits = [one.path for one in found.culprits]
    assert culprits == []
