"""The entry point: tells ``equiv-probe`` about this plugin without importing ASE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equiv_probe.live.plugins import Plugin, PresetStatus

if TYPE_CHECKING:
    import typer


def _register(app: typer.Typer) -> None:
    from equiv_probe_ase.commands.audit import register

    register(app)


def _presets() -> list[PresetStatus]:
    from equiv_probe_ase.calculators.presets import PRESETS

    return [
        PresetStatus(preset.typed, preset.installed, preset.about, "" if preset.installed else preset.how_to_install)
        for preset in PRESETS.values()
    ]


plugin = Plugin(
    name="ase",
    framework="ase",
    register=_register,
    presets=_presets,
    packages=(
        *("ase", "e3nn", "chgnet", "sevenn", "tblite", "orb-models", "mace-torch", "metatomic-ase", "schnetpack"),
        *("torch-sim-atomistic", "nequip", "fairchem-core", "matgl", "mattersim", "deepmd-kit", "aimnet", "torchani"),
        "distributed",
    ),
)
