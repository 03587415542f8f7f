"""Limits with units: every unit that is reported can be written, and a slip of the pen is an error, not a limit."""

from __future__ import annotations

import pytest

import equiv_probe as ep
from equiv_probe_ase.auditing.thresholds import Threshold
from equiv_probe_ase.structures.quantities import QUANTITIES


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("1meV/A", "forces", 1.0),
        ("1 meV/Å", "forces", 1.0),
        ("0.002eV/A", "forces", 2.0),
        ("1e-3 eV/A", "forces", 1.0),
        ("1e3meV/A", "forces", 1000.0),
        ("2.5E+1 µeV/A", "forces", 0.025),
        ("5ueV/atom", "energy", 0.005),
        ("free_energy=1meV/atom", "free_energy", 1.0),
        ("energies=3meV", "energies", 3.0),
        ("1meV/A^3", "stress", 1.0),
        ("1meV/Å³", "stress", 1.0),
        ("stresses = .5 meV/A3", "stresses", 0.5),
        ("3me*A", "dipole", 3.0),
        ("3me", "charges", 3.0),
        ("1e-2 e", "charges", 10.0),
        ("0.1muB", "magmoms", 100.0),
        ("7mμB", "magmoms", 7.0),
        ("magmom=1mmuB", "magmom", 1.0),
    ],
)
def test_limits(text: str, quantity: str, limit: float) -> None:
    found = Threshold.parse(text)
    assert found.quantity == quantity
    assert found.limit == pytest.approx(limit, rel=1e-12)


def test_every_reported_unit_can_be_written_as_it_is_printed() -> None:
    for name, quantity in QUANTITIES.items():
        assert Threshold.parse(f"{name}=1{quantity.unit}").limit == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text",
    ["", "1", "meV/A", "1kcal/mol", "1meV", "forces=1meV/atom", "forcs=1meV/A", "1.2.3meV/A", "-1meV/A", "nan meV/A"],
)
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ep.EquivProbeError, match="--fail-above"):
        Threshold.parse(text)
