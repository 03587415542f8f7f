"""``equiv-probe demo``: an equivariant model and one that is not, on the same molecules, side by side."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import interval, number
from equiv_probe_ase.auditing.audit import audit
from equiv_probe_ase.calculators.by_name import make_calculator

if TYPE_CHECKING:
    from rich.console import Console

    from equiv_probe.results.report import Measured, Report

VACUUM = 6.0
"""Margin of CHGNet's box (Å): its atom graph ends at 6 Å."""


_INTRODUCTION = """\
Two force fields on the same molecules (GFN2-xTB geometries and labels), each molecule rotated 48 ways:
[bold]CHGNet[/bold], equivariant by construction (in a box, since it is made for crystals), and
a small [bold]transformer[/bold] that saw nothing but randomly rotated training data.
"""


def force_field_folder() -> Path:
    """Where the project's own transformer lies: in the wheel beside this file, in a checkout under ``integrations``."""
    here = Path(__file__).parents[1]
    for folder in (here / "force_field", here.parents[1] / "integrations" / "force_field"):
        if (folder / "transformer.py").exists():
            return folder
    raise EquivProbeError(
        "no force_field folder beside the package", "the project's own transformer", "install the wheel"
    )


def demo(console: Console) -> None:
    """Run both audits and print them side by side, then what to try next.

    Args:
        console: to print on.

    Raises:
        EquivProbeError: CHGNet is not installed.
    """
    if importlib.util.find_spec("chgnet") is None:
        raise EquivProbeError(
            "no chgnet", "CHGNet, whose weights come with its wheel", "pip install 'equiv-probe[demo]'"
        )
    began = time.perf_counter()
    folder = force_field_folder()
    molecules = folder / "data" / "molecules.extxyz"
    console.print(_INTRODUCTION)
    with contextlib.redirect_stdout(io.StringIO()):  # CHGNet announces itself
        chgnet = make_calculator("chgnet")
    reports = {
        # Forces and energy only: the stress of a molecule in a box means nothing.
        "CHGNet": audit(chgnet, f"{molecules}@::6", properties=["energy", "forces"], vacuum=VACUUM, name="CHGNet"),
        "transformer": audit(make_calculator(f"{folder / 'transformer.py'}:calculator"), molecules, name="transformer"),
    }
    console.print(_side_by_side(reports))
    console.print(_worst(reports["transformer"]))
    console.print(_next_steps(molecules, folder))
    console.print(f"[dim]{time.perf_counter() - began:.0f} s[/dim]")


def _side_by_side(reports: dict[str, Report]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name, report in reports.items():
        table.add_column(f"{name}, {len(report.structures)} molecules", justify="left")

    def row(title: str, *cells: str | Text) -> None:
        table.add_row(title, *cells)

    forces, energies = ([report[name] for report in reports.values()] for name in ("forces", "energy"))
    colours = {"round-off": "green", "broken": "red"}
    for name, measured in (("forces", forces), ("energy", energies)):
        row(f"{name}: √L_equiv", *(f"{number(m.rms)} {m.unit}  {interval(*m.rms_interval)}" for m in measured))
        row("  verdict", *(Text(m.sentence, colours.get(m.verdict, "yellow")) for m in measured))
    row("force loss against GFN2-xTB: L_total", *(_loss(m, "total") for m in forces))
    row("  L_mean", *(_loss(m, "mean") for m in forces))
    row("  L_equiv", *(_loss(m, "equiv") for m in forces))
    row("  share of the loss", *(Text(_share(m), "bold") for m in forces))
    return table


def _loss(m: Measured, key: str) -> str:
    assert m.labelled is not None  # the embedded molecules carry labels
    value, error = getattr(m.labelled, key), getattr(m.labelled, f"{key}_stderr")
    return f"{number(value)} ± {number(error)} {m.labelled.unit}"


def _share(m: Measured) -> str:
    assert m.labelled is not None
    share, error = m.labelled.share, m.labelled.share_stderr
    return "< 0.01 %" if share < 1e-4 else f"{100 * share:.1f} ± {100 * error:.1f} %"


def _worst(report: Report) -> str:
    forces = report["forces"]
    elements = sorted(forces.by_element.items(), key=lambda item: -item[1]["rms"])[:3]
    shown = ", ".join(f"{element} {values['rms']:.0f}" for element, values in elements)
    worst = forces.worst_atoms[0]
    return (
        f"The transformer is worst on {shown} {forces.unit}; worst atom {worst['element']}{worst['atom']} of "
        f"{worst['structure']}, {worst['rms']:.0f} {forces.unit}.\n"
        "CHGNet is far from GFN2-xTB, since it learned another level of theory on crystals: a large loss, but none of\n"
        "it is broken symmetry."
    )


def _next_steps(molecules: Path, folder: Path) -> str:
    with contextlib.suppress(ValueError):
        molecules, folder = (path.relative_to(Path.cwd()) for path in (molecules, folder))
    return f"""
[bold]Try next[/bold]
  equiv-probe audit chgnet your_crystals.extxyz           your structures, in any format that ASE reads
  equiv-probe audit {folder}/transformer.py:calculator \\
      {molecules} --rel-err 0.1
  equiv-probe audit your_module:make_calculator structures.db -o report.json --fail-above 1meV/A
  equiv-probe doctor                                      which models can be audited here
"""
