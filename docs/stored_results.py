"""Make the results of the gallery anew: `make docs-run`. The site shows what is stored, and builds without the models.

All of it takes some minutes on one core; `make docs-run ARGS=chgnet` makes one.
What is not installed here is left as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.build import bulk
from ase.io import read, write
from ase.spacegroup import crystal

import equiv_probe as ep
from equiv_probe_ase import TwirledCalculator, audit, diagnose, make_calculator, trace
from equiv_probe_ase.dynamics.molecular_dynamics import molecular_dynamics

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms

HERE = Path(__file__).parent
FORCE_FIELD = HERE.parent / "integrations" / "force_field"
TRANSFORMER = f"{FORCE_FIELD / 'transformer.py'}:calculator"
MOLECULES = FORCE_FIELD / "data" / "molecules.extxyz"
MADE: dict[str, Callable[[], Any]] = {}


def stored(function: Callable[[], Any]) -> Callable[[], Any]:
    """Name a result after the function that makes it."""
    MADE[function.__name__] = function
    return function


def crystals() -> list[Atoms]:
    """Twelve textbook crystals of 2 to 12 atoms, rattled by 0.05 Å."""
    rutile = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90]
    )
    perovskite = crystal(
        ["Sr", "Ti", "O"], [(0, 0, 0), (0.5,) * 3, (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3
    )
    found = [
        *(bulk(name, cubic=True) for name in ("Cu", "Al", "Fe")),
        *(bulk(name, cubic=False) * (2, 1, 1) for name in ("Mg", "Ti", "Zn")),
        *(bulk(name, "diamond", a=a) for name, a in (("Si", 5.43), ("C", 3.57))),
        *(bulk(name, kind, a=a) for name, kind, a in (("NaCl", "rocksalt", 5.64), ("GaAs", "zincblende", 5.65))),
        rutile,
        perovskite,
    ]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
        atoms.info["name"] = f"{atoms.get_chemical_formula()}"
    return found


@stored
def chgnet() -> Any:
    return audit("chgnet", crystals(), name="CHGNet 0.3.0")


@stored
def sevennet() -> Any:
    return audit("7net-0", crystals(), name="SevenNet-0")


@stored
def orb() -> Any:
    """The checkpoint lies in a folder `weights` beside the data, or where `ORB_CHECKPOINT` says."""
    beside = Path(os.environ.get("EQUIV_PROBE_DATA", HERE)).parent / "weights"
    found = os.environ.get("ORB_CHECKPOINT") or next(iter(sorted(beside.glob("orb*/*.pt"))), None)
    if found is None:
        raise ModuleNotFoundError("no checkpoint of Orb: ORB_CHECKPOINT=orb-d3-xs-v2.pt")
    return audit(f"orb:{found}", crystals(), name="Orb-d3-xs-v2")


@stored
def mace() -> Any:
    """A small one, trained for a minute on the molecules of the checkout; `make hosts HOST=mace` has what it needs."""
    import mace as _  # noqa: F401 - what is not installed is left as it is

    options = (
        "--name=m --train_file=train.xyz --valid_file=valid.xyz --E0s=average --model=MACE --hidden_irreps=8x0e+8x1o "
        "--r_max=4.0 --batch_size=4 --max_num_epochs=10 --device=cpu --default_dtype=float32 --energy_key=REF_energy "
        "--forces_key=REF_forces --num_interactions=2 --max_ell=2 --correlation=2 --seed=1"
    )
    frames = read(MOLECULES, ":")
    labelled = []
    for one in frames:
        copy = one.copy()
        copy.info["REF_energy"], copy.arrays["REF_forces"] = one.get_potential_energy(), one.get_forces()
        labelled.append(copy)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "train.xyz", labelled[:-10])
        write(Path(folder) / "valid.xyz", labelled[-10:])
        script = Path(sys.executable).parent / "mace_run_train"
        subprocess.run([sys.executable, script, *options.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        calculator = make_calculator(f"mace:{Path(folder) / 'm.model'}", dtype="float32")
        return audit(calculator, frames, name="a small MACE")


@stored
def transformer() -> Any:
    return audit(TRANSFORMER, read(MOLECULES, ":"), name="the project's transformer")


@stored
def averaged() -> Any:
    twelve = TwirledCalculator(make_calculator(TRANSFORMER), {"design": "tetrahedral", "replicates": 1})
    return audit(twelve, read(MOLECULES, ":"), name="the same over 12 rotations")


@stored
def comparison() -> Any:
    both = [ep.load(HERE / "stored" / f"{name}.json") for name in ("transformer", "averaged")]
    return ep.compare(both)


@stored
def dynamics() -> Any:
    atoms = read(MOLECULES, "6")
    calculator = make_calculator(TRANSFORMER, dtype="float64")
    watching = {
        "every": 20,
        "conservative_every": 40,
        "log": None,
        "progress": False,
        "name": "the project's transformer",
    }
    return molecular_dynamics(calculator, atoms, steps=400, **watching)


@stored
def training() -> Any:
    """The Lightning study on the molecules of the checkout, a transformer on raw coordinates."""
    from argparse import Namespace

    from equiv_probe_lightning import EquivarianceCallback

    sys.path.insert(0, str(HERE.parent / "integrations" / "lightning_training"))
    from train import train

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        settings = Namespace(data=MOLECULES, steps=600, batch=32, seed=0, augment=False, compare=True)
        train(settings, folder, EquivarianceCallback(every=10, cost=None, report=report))
        return ep.load(report)


@stored
def diagnosis() -> Any:
    return diagnose("chgnet", crystals(), name="CHGNet 0.3.0")


@stored
def where() -> Any:
    return trace(TRANSFORMER, read(MOLECULES, "::10"), name="the project's transformer")


def main(names: list[str]) -> None:
    """Make those that are named, or all."""
    warnings.filterwarnings("ignore")
    for name in names or MADE:
        start = time.perf_counter()
        try:
            MADE[name]().save(HERE / "stored" / f"{name}.json")
        except ImportError as error:
            print(f"{name} stays as it is: {error}")
            continue
        print(f"{name}.json: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
