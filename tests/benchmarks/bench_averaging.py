"""Averages over rotations at equal remaining error: ours and metatomic's own, of the same PET, in one run.

    $EQUIV_PROBE_HOSTS/metatrain/bin/python tests/benchmarks/bench_averaging.py

Of PETs with random weights and of some trained on ethanol for a minute, each from a seed of its own (``--seeds``;
``--keep FOLDER`` keeps the models and takes those that are there). A row is one way to average the energy and the
forces of frames in random orientations: rotations, CPU seconds of a call (one thread), what the average and the
variance over rotations are off by. "Oriented" designs lie in the frame of the model as three other frames say. The
peer's rotations lie along the axes of the coordinates; "rotated" are the same, rotated at random with each frame. The
reference is a design of degree 11. The last columns compare with ours: the cheapest of our rows that is at least as
near in energies and in forces, oriented or not.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read, write
from metatomic.torch import ModelOutput, load_atomistic_model
from metatomic.torch.o3 import SymmetrizedModel
from metatomic_ase import MetatomicCalculator, SymmetrizedCalculator
from rich.console import Console
from rich.table import Table

from equiv_probe import RotationPlan
from equiv_probe.rotations.designs import smallest_first
from equiv_probe.rotations.haar import haar
from equiv_probe.rotations.resolve import AutoPlan
from equiv_probe_ase import TwirledCalculator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ETHANOL = Path(os.environ.get("EQUIV_PROBE_DATA", ".")) / "ethanol_rmd17" / "train.xyz"
OURS = [(name, 1) for name in itertools.islice(smallest_first(), 1, 12)] + [("design-3", 4), ("design-5", 4)]
ORIENTED = list(itertools.islice(smallest_first(products=True), 1, 10))
GRIDS = (3, 5, 7)
GROUPS = ("SO(3)", "O(3)")
OTHERS = 3
"""Frames that designs are oriented by."""
PEER = {False: (1, 2, 3, 4, 5, 6, 7), True: (2, 3, 5)}
OPTIONS = """
seed: {seed}
architecture:
  name: pet
  model: {{cutoff: 4.5, d_pet: 32, d_head: 32, d_node: 64, d_feedforward: 64}}
  training: {{num_epochs: {epochs}, batch_size: 8, learning_rate: 0.001}}
training_set:
  systems: {{read_from: train.xyz, length_unit: angstrom}}
  targets: {{energy: {{quantity: energy, unit: eV, read_from: train.xyz, key: energy, forces: {{key: forces}}}}}}
validation_set: 0.1
test_set: 0.1
"""


@dataclass
class Row:
    """One way to average: root-mean-square errors in meV, meV/Å, and relative ones of the variances."""

    name: str
    improper: bool
    size: int
    seconds: float
    energy: float
    forces: float
    energy_variance: float
    forces_variance: float
    bar: float
    """Our error bar of the forces over their error."""


def random_pet(where: Path, seed: int) -> Path:
    """A PET with random weights."""
    from metatrain.utils.architectures import get_default_hypers, import_architecture
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info

    torch.manual_seed(seed)
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"})
    info = DatasetInfo(length_unit="angstrom", atomic_types=[1, 6, 8], targets={"energy": energy})
    hypers = get_default_hypers("pet")["model"] | {"d_pet": 32, "d_head": 32, "d_node": 64, "d_feedforward": 64}
    path = where / f"random-{seed}.pt"
    import_architecture("pet").__model__(hypers, info).double().export().save(str(path))
    return path


def trained_pet(path: Path, frames: Sequence[Atoms], epochs: int, seed: int) -> Path:
    """A PET that ``mtt train`` made of energies and forces, exported in float64."""
    from metatrain.utils.io import load_model

    labelled = []
    for frame in frames:  # near zero: in float32 the last digit of a whole molecule's energy is half a meV
        atoms = Atoms(frame.symbols, frame.positions, info={"energy": frame.get_potential_energy() + 4209.5})
        atoms.arrays["forces"] = frame.get_forces()
        labelled.append(atoms)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        write(where / "train.xyz", labelled)
        (where / "options.yaml").write_text(OPTIONS.format(epochs=epochs, seed=seed))
        mtt = str(Path(sys.executable).parent / "mtt")
        subprocess.run([mtt, "train", "options.yaml"], cwd=where, check=True, stdout=subprocess.DEVNULL)
        load_model(str(where / "model.ckpt")).eval().double().export().save(str(path))
    return path


def called(calculator: Any, frames: Sequence[Atoms]) -> tuple[list[dict[str, NDArray[np.float64]]], float]:
    """Results at the frames, and the median of the CPU seconds of a call."""
    results, seconds = [], []
    for frame in frames:
        began = time.process_time()
        calculator.calculate(frame.copy(), ["energy", "forces"], ["positions"])
        seconds.append(time.process_time() - began)
        results.append({name: np.array(value) for name, value in calculator.results.items()})
    return results, statistics.median(seconds)


class Rotated:
    """The peer's rotations, rotated at random with each frame in place of along the axes of the coordinates."""

    def __init__(self, inner: SymmetrizedCalculator) -> None:
        self._inner, self._drawn = inner, torch.Generator().manual_seed(0)
        self._along_the_axes = inner.quadrature_rotations

    def calculate(self, *given: Any) -> None:
        """As ASE's."""
        self._inner.quadrature_rotations = haar(1, self._drawn)[0].numpy() @ self._along_the_axes
        self._inner.calculate(*given)
        self.results = self._inner.results


class AveragedModel:
    """metatomic's ``SymmetrizedModel``: energy and its variance, without forces, over O(3)."""

    def __init__(self, path: Path, degree: int) -> None:
        wrapped = SymmetrizedModel.wrap(
            load_atomistic_model(str(path)), max_angular_momentum_grid=degree, batch_size=4096
        )
        self.size = 2 * len(wrapped.module._rotation_weights)
        self._inner = MetatomicCalculator(wrapped, device="cpu")

    def calculate(self, atoms: Atoms, *_: Any) -> None:
        """As ASE's."""
        asked = ("energy", "o3::variance::energy")
        found = self._inner.run_model(atoms, {name: ModelOutput(sample_kind="system") for name in asked})
        energy, variance = (found[name].block().values.item() for name in asked)
        nothing = np.full((len(atoms), 3), np.nan)
        self.results = {"energy": energy, "energy_std": variance**0.5, "forces": nothing, "forces_std": nothing}


def row(name: str, calculator: Any, improper: bool, size: int, frames: Any, truth: Any, std: str) -> Row:  # noqa: PLR0917
    """Evaluate one way, and compare."""
    found, seconds = called(calculator, frames)
    pairs = list(zip(found, truth, strict=True))

    def off(output: str) -> float:
        return 1e3 * float(np.sqrt(np.mean([(one[output] - true[output]) ** 2 for one, true in pairs])))

    def variance_off(output: str) -> float:
        ours, true = (
            np.array([np.mean(one[key] ** 2) for one in rows])
            for rows, key in ((found, output + std), (truth, f"{output}_std"))
        )
        return float(np.sqrt(np.mean((ours / true - 1) ** 2)))

    bar = 1e3 * float(np.sqrt(np.mean([one.get("forces_stderr", np.nan) ** 2 for one in found])))
    energy = off("energy") / len(frames[0])
    values = (energy, off("forces"), variance_off("energy"), variance_off("forces"))
    return Row(name, improper, size, seconds, *values, bar)


class Comparison:
    """All ways of at most so many rotations, for one model and one group of rotations.

    Args:
        model: the exported model.
        frames: that are averaged, and others that designs are oriented by.
        most: rotations of a row, twice as many over O(3).
        group: of :data:`GROUPS`.
        progress: where each row is told when it is there: a long run that ends early has said something.
    """

    def __init__(
        self, model: Path, frames: tuple[Sequence[Atoms], Sequence[Atoms]], most: int, group: str, progress: Console
    ) -> None:
        self.model, (self.frames, self.others) = model, frames
        self.improper, self.progress = group == "O(3)", progress
        self.most = most * (1 + self.improper)
        self.found: list[Row] = []
        self.base = MetatomicCalculator(str(model), device="cpu")
        called(self.base, self.frames)  # warms up
        reference = TwirledCalculator(self.base, RotationPlan("design-11", 1, self.improper, seed=99))
        self.truth, _ = called(reference, self.frames)
        plain = called(self.base, self.frames)[0]
        squares = [(a["forces"] - b["forces"]) ** 2 for a, b in zip(plain, self.truth, strict=True)]
        forces = 1e3 * np.sqrt(np.mean(squares))
        progress.print(f"{model.stem}, {group}: one frame is off by {forces:.3g} meV/Å")

    def rows(self) -> list[Row]:
        """Evaluate them."""
        self._peer()
        self._ours()
        auto = TwirledCalculator(self.base, AutoPlan(improper=self.improper))
        auto.choose(self.others)
        self.progress.print(f"auto: {auto.chosen}")
        return self.found

    def _peer(self) -> None:
        for degree in PEER[self.improper]:
            calculator = SymmetrizedCalculator(
                self.base, l_max=degree, include_inversion=self.improper, store_rotational_std=True
            )
            size = len(calculator.quadrature_weights)
            self._add(f"peer, l_max = {degree}", calculator, size, "_rot_std")
            if not self.improper and degree < 6:
                self._add(f"rotated, l_max = {degree}", Rotated(calculator), size, "_rot_std")
        for degree in GRIDS if self.improper else ():
            averaged = AveragedModel(self.model, degree)
            self._add(f"peer's model, grid = {degree}", averaged, averaged.size)

    def _ours(self) -> None:
        for design, replicates in OURS:
            if self.improper and (replicates > 1 or design in {"design-2", "design-8", "design-9"}):
                continue  # nothing new, and most of the time
            plan = RotationPlan(design, replicates, self.improper)
            # Other rotations for each frame: how near one draw of them comes is chance.
            self._add(f"{replicates} × {design}", TwirledCalculator(self.base, plan, redraw=True), plan.size)
        for design in ORIENTED:
            plan = RotationPlan(design, 1, self.improper)
            calculator = TwirledCalculator(self.base, plan, redraw=True, orient=True)
            calculator.choose(self.others)
            self._add(f"oriented {design}", calculator, plan.size)
        if not self.improper:
            looped = TwirledCalculator(self.base, RotationPlan("design-5", 1), redraw=True, batched=False)
            self._add("design-5, one by one", looped, 60)

    def _add(self, name: str, calculator: Any, size: int, std: str = "_std") -> None:
        if size > self.most:
            return
        one = row(name, calculator, self.improper, size, self.frames, self.truth, std)
        self.found.append(one)
        error = f"{one.energy:.2g} meV/atom, {one.forces:.2g} meV/Å"
        self.progress.print(f"{one.name}, {one.size}: {one.seconds:.2g} s, {error}")


def table(found: Sequence[Row], title: str) -> Table:
    """One line a way; each of the peer's beside the cheapest of ours that is as good."""
    lines = Table(title=title, box=None)
    heads = ("", "group", "rotations", "s a call", "E meV/atom", "F meV/Å", "F bar", "var E", "var F", "as good, ours")
    for head in heads:
        lines.add_column(head, justify="right" if head else "left")
    for one in found:
        ours = [
            other
            for other in found
            if not other.name.startswith(("peer", "rotated"))
            and other.improper == one.improper
            and other.energy <= one.energy
            and not other.forces > one.forces  # of a model without forces NaN
        ]
        best = min(ours, key=lambda other: other.size, default=None)
        beside = ""
        if one.name.startswith("peer"):
            ratios = best and f"{best.size / one.size:.2f} of rotations, {best.seconds / one.seconds:.2f} of time"
            beside = f"{best.name}: {ratios}" if best else "none"
        lines.add_row(
            one.name,
            "O(3)" if one.improper else "SO(3)",
            str(one.size),
            *(f"{value:.2g}" for value in (one.seconds, one.energy, one.forces, one.bar)),
            *(f"{100 * value:.2g} %" for value in (one.energy_variance, one.forces_variance)),
            beside,
        )
    return lines


def main() -> None:
    """Print one table per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--most", type=int, default=400, help="rotations of a row, twice as many over O(3)")
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=GROUPS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--keep", type=Path, help="a folder for the models")
    parser.add_argument("--models", type=Path, nargs="*", help="exported models, in place of those made here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = read(ETHANOL, ":")
    chosen = np.random.default_rng(0).choice(np.arange(500, len(data)), options.frames + OTHERS, replace=False)
    frames = [Atoms(data[k].symbols, data[k].positions - data[k].positions.mean(0)) for k in chosen]
    turns = RotationPlan("haar", len(frames), seed=5).rotations()[:, 0].numpy()
    for frame, g in zip(frames, turns, strict=True):
        frame.positions = frame.positions @ g.T
    console = Console(width=190)
    with tempfile.TemporaryDirectory() as folder:
        where = options.keep or Path(folder)
        where.mkdir(exist_ok=True)
        models = options.models or []
        for seed in () if options.models else options.seeds:
            trained = where / f"trained-{seed}.pt"
            models += [random_pet(where, seed - 1)]
            models += [trained if trained.exists() else trained_pet(trained, data[:300], options.epochs, seed)]
        for model in models:
            found = []
            for group in options.groups:
                both = (frames[: options.frames], frames[options.frames :])
                found += Comparison(model, both, options.most, group, console).rows()
            console.print(table(found, model.stem))


if __name__ == "__main__":
    main()
