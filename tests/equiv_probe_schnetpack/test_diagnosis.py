"""A diagnosis of SchNetPack's own potentials, and of the project's unconstrained one."""

from __future__ import annotations

import pytest

import equiv_probe as ep

from .spk_models import batch, potential


@pytest.mark.parametrize("kind", ["painn", "schnet"])
def test_potentials_that_respect_everything(kind: str) -> None:
    found = ep.diagnose(potential(kind).eval(), batch())
    assert found.verdict == "nothing", str(found)
    states = {one.experiment: one.state for one in found.attempts}
    assert "failed" not in states.values()
    assert states["order of atoms"] == states["forces and energy"] == "excluded"


def test_one_that_was_not_built_to() -> None:
    found = ep.diagnose(potential("unconstrained").eval(), batch())
    assert {one.name for one in found.broken} == {"energy", "forces"}
    assert found.verdict == "angular degree", str(found)
