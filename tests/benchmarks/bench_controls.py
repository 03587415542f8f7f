"""Controls of audits: false alarms on exact models, misses of planted faults, coverage, and what they cost.

python -m tests.benchmarks.bench_controls alarms 200     audits of exactly equivariant calculators
python -m tests.benchmarks.bench_controls misses 20      audits of each planted fault
python -m tests.benchmarks.bench_controls coverage 200   intervals over designs × tails × structures
python -m tests.benchmarks.bench_controls cost           evaluations and seconds with and without
python -m tests.benchmarks.bench_controls grids 100      audits of exactly cube-equivariant float32 networks
python -m tests.benchmarks.bench_controls probes 100     probes of exactly equivariant networks in training
python -m tests.benchmarks.bench_controls training 40    what a probe's controls cost a training
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import equiv_probe as ep
from equiv_probe.estimation.controls import failures_of
from equiv_probe.estimation.estimates import Sums
from equiv_probe.estimation.heavy_tails import HEAVY, bootstrap_t, effective_number
from equiv_probe.probe import parts as probes_module
from equiv_probe.probe.parts import Checks
from equiv_probe.voxels.grid_numbers import Shown
from equiv_probe_ase import audit
from equiv_probe_ase.auditing import windows
from tests.equiv_probe_ase.auditing import faulty_calculators as faulty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms

FINE = {"round-off"}


def exact_audits() -> Iterator[tuple[str, Any, Atoms]]:
    """Calculators without a fault, in both precisions, near the origin and far from it, molecules and crystals."""
    crystals = [bulk("Cu", cubic=True), bulk("Ni"), bulk("Au") * (2, 1, 1), bulk("Pd", cubic=True) * (2, 1, 1)]
    for seed in range(10**6):
        rng = np.random.default_rng(seed)
        for single, far, periodic in product((False, True), repeat=3):
            names = ("H2O", "CH3OH", "CH4", "NH3", "C2H4", "N2", "CO")
            atoms = crystals[seed % 4].copy() if periodic else molecule(names[seed % len(names)])
            if seed % 3:  # the others are as symmetric as they come
                atoms.rattle(0.05, seed=seed)
            if far:
                direction = rng.standard_normal(3)
                atoms.positions += rng.uniform(50, 200) * direction / np.linalg.norm(direction)
            words = (
                "float32" if single else "float64",
                "far" if far else "near",
                "crystal" if periodic else "molecule",
            )
            yield " ".join(words), faulty.InSinglePrecision() if single else EMT(), atoms


def alarms(count: int) -> None:
    wrong: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for place, (kind, calculator, atoms) in enumerate(islice(exact_audits(), count)):
        report = audit(calculator, atoms, plan=ep.RotationPlan(seed=place))
        bad = [m.sentence for m in report.measured if m.verdict not in FINE] + report.notes
        total[kind] += 1
        wrong[kind] += bool(bad)
        for line in bad:
            print(f"  {kind}, {atoms.get_chemical_formula()}, seed {place}: {line[:150]}")
    for kind in sorted(total):
        print(f"{kind:26s} {wrong[kind]:4d} of {total[kind]}")
    print(f"false alarms: {sum(wrong.values())} of {sum(total.values())} audits")


def faults() -> dict[str, Any]:
    """By kind: a calculator, and structures on which its fault is at work."""

    def molecules(*names: str) -> Any:
        def make(seed: int) -> list[Atoms]:
            made = [molecule(name) for name in names]
            for atoms in made:
                atoms.rattle(0.05, seed=seed)
            return made

        return make

    some = molecules("CH3CH2OH", "H2O")
    symmetric = lambda name: lambda seed: [molecule(name)]  # noqa: E731
    return {
        "cache by formula": (faulty.CachesByFormula, some),
        "edges from elsewhere": (faulty.EdgesFromElsewhere, some),
        "precomputed features": (faulty.PrecomputedFeatures, some),
        "one output for a batch": (faulty.EvaluatesTheFirst, some),
        "degenerate principal axes": (faulty.PrincipalAxes, symmetric("CH4")),
        "ties among neighbours": (faulty.FrameOfTheNearest, symmetric("CH3CH2OH")),
        "amplified rounding": (faulty.NormalisesNearlyConstant, symmetric("CH3CH2OH")),
        "amplified rounding, float32": (lambda: faulty.NormalisesNearlyConstant(torch.float32), symmetric("C6H6")),
        "batch coupling": (faulty.BatchCoupled, some),
        "padding": (faulty.PaddingLeaks, some),
        "centred on padding": (faulty.CentredOnPadding, some),
        "no images": (faulty.ForgetsToWrap, lambda seed: [bulk("Si", cubic=True)]),
    }


def misses(count: int) -> None:
    for kind, (make, structures) in faults().items():
        missed = 0
        for seed in range(count):
            report = audit(make(), structures(seed), plan=ep.RotationPlan(seed=seed))
            missed += not any(one.failed for one in report.controls)
        print(f"{kind:28s} missed {missed} of {count}")


def coverage(count: int) -> None:
    z = torch.nn.functional.normalize(torch.tensor([1.0, 0.3, 0.2], dtype=torch.float64), dim=0)
    schema = ep.Schema(inputs={"u": ep.vector}, outputs={"e": ep.scalar})
    cubic = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    for label, bonds, sharpness in (
        ("smooth", cubic[:1], 1),
        ("cubic bonds", cubic, 8),
        ("narrow cone", cubic[:1], 60),
    ):
        u = {"u": bonds}

        def model(x: Any, k: float = sharpness) -> Any:
            return {"e": torch.exp(k * (x["u"] @ z - 1)).sum(-1)}

        truth = ep.decompose(
            ep.twirl(model, u, schema, ep.RotationPlan("icosahedral", 1_000, seed=9), stacked=True)
        ).equiv
        for design, replicates in (
            ("haar", 48),
            ("klein", 12),
            ("tetrahedral", 4),
            ("octahedral", 4),
            ("icosahedral", 4),
        ):
            hits, told, values = 0, 0, []
            for seed in range(count):
                plan = ep.RotationPlan(design, replicates, seed=seed)
                found = ep.decompose(ep.twirl(model, u, schema, plan, stacked=True, floor=0))
                hits += found.equiv_interval[0] <= truth <= found.equiv_interval[1]
                told += any("a few rotations" in note for note in found.notes)
                values.append(found.equiv / truth)
            print(
                f"{label:12s} {replicates:3d} × {design:12s} coverage {hits / count:.3f} scatter {np.std(values):.2f}"
                f", said to be few {told / count:.2f}"
            )
    for sigma, n in product((0.5, 1.0, 2.0), (10, 30, 100, 300)):
        rng, truth = np.random.default_rng(0), np.exp(sigma**2 / 2)
        held, told, before = 0, 0, 0
        for _ in range(count):
            x, one = rng.lognormal(0, sigma, n), np.ones(n)
            student = Sums.of(torch.from_numpy(x), torch.full((n,), np.nan).double(), torch.ones(n).double()).equiv
            few = effective_number(x)
            low, high = bootstrap_t(x, one) if few < HEAVY * n else (student.low, student.high)
            held += low <= truth <= high
            before += student.low <= truth <= student.high
            told += n >= 10 and few < min(10, n / 3)
        print(
            f"log-normal σ = {sigma}, {n:3d} structures: coverage {held / count:.3f} (Student, log scale "
            f"{before / count:.3f}), said to be few {told / count:.2f}"
        )


def cost(_: int = 0) -> None:
    atoms = [molecule(name) for name in ("CH3CH2OH", "C6H6", "CH3OH", "C2H4") * 3]
    for seed, one in enumerate(atoms):
        one.rattle(0.05, seed=seed)
    trusted = windows.ControlCopies
    for label, made in [("with", trusted), ("without", lambda *_, **__: None)] * 3:
        windows.ControlCopies = made  # type: ignore[misc,assignment]
        began = time.process_time()
        report = audit(EMT(), atoms)
        print(f"{label:8s} {report.protocol['evaluations']} evaluations, {time.process_time() - began:.2f} s")
    windows.ControlCopies = trusted  # type: ignore[misc]


def cube_network(seed: int) -> tuple[torch.nn.Sequential, torch.Tensor]:
    """Kernels that are bit for bit the same at all rotations of the cube, pooling and normalisation; and its input."""
    generator = torch.Generator().manual_seed(seed)
    distance = torch.tensor([[[abs(i) + abs(j) + abs(k) for k in (-1, 0, 1)] for j in (-1, 0, 1)] for i in (-1, 0, 1)])

    def layer(given: int, made: int) -> torch.nn.Conv3d:
        conv = torch.nn.Conv3d(given, made, 3, padding=1)
        kernel = torch.randn(made, given, 4, generator=generator) / (8 * given) ** 0.5
        conv.weight.data = kernel[:, :, distance].contiguous()  # by centre, face, edge and corner
        return conv

    inner: list[torch.nn.Module] = []
    for depth in range(seed % 6):
        norm = torch.nn.InstanceNorm3d(4) if seed % 2 else torch.nn.Identity()
        inner += [torch.nn.SiLU(), norm, layer(4, 4)]
        inner += [torch.nn.AvgPool3d(2)] if seed % 3 == 0 and depth == 1 else []
    x = torch.rand(2, 1, 8, 8, 8, generator=generator)
    x = x + 10 * (seed % 5 == 0)  # density on a background
    return torch.nn.Sequential(layer(1, 4), *inner, layer(4, 1)).eval(), x


def grids(count: int) -> None:
    schema, plan = ep.Schema({"input": ep.grid()}, {"0": ep.grid()}), ep.RotationPlan("klein", 2)
    wrong = missed = 0
    for seed in range(count):
        network, x = cube_network(seed)
        kind = Shown(ep.audit_grid(network, x, schema, plan=plan, progress=False).cube).kind
        wrong += kind != "round-off"
        if kind != "round-off":
            print(f"  seed {seed}: {kind}")
        network[0].weight.data[:, :, 0] *= 1 + 1e-3  # one face of every kernel by a thousandth
        missed += Shown(ep.audit_grid(network, x, schema, plan=plan, progress=False).cube).kind == "round-off"
    print(f"grids in float32: false alarms {wrong} of {count}, missed faults of a thousandth {missed} of {count}")


class Equivariant(torch.nn.Module):
    """Forces along differences of positions, by a network of distances."""

    def __init__(self) -> None:
        super().__init__()
        self.radial = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.SiLU(), torch.nn.Linear(32, 1))

    def forward(self, pos: torch.Tensor) -> dict[str, torch.Tensor]:
        arms = pos[:, :, None] - pos[:, None]
        return {"forces": (arms * self.radial(arms.square().sum(-1, keepdim=True))).mean(2)}


def training_loop(steps: int, every: int | None, *, seed: int = 0, network: type = Equivariant) -> Any:
    """The probe of a short training."""
    torch.manual_seed(seed)
    model, x = network(), torch.randn(32, 16, 3) + 2 * (seed % 2)
    y = -x + x.mean(1, keepdim=True) + 0.1 * torch.randn_like(x)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    probe = ep.Probe(model, ep.Schema({"pos": ep.point}, {"forces": ep.vector}), every=every)
    for _ in range(steps):
        loss = probe.step(lambda: (model(x)["forces"] - y).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe


class Blind(Equivariant):
    """Of coordinates that it keeps from its first call."""

    def forward(self, pos: torch.Tensor) -> dict[str, torch.Tensor]:
        self.first = getattr(self, "first", pos.detach().clone())
        return super().forward(self.first)


class Coupled(Equivariant):
    """Normalised over the batch."""

    def forward(self, pos: torch.Tensor) -> dict[str, torch.Tensor]:
        forces = super().forward(pos)["forces"]
        return {"forces": forces / (forces.square().mean() + 1e-4).sqrt()}


def probes(count: int) -> None:
    wrong = missed = tried = 0
    for seed in range(count):
        probe = training_loop(4, 1, seed=seed)
        told = failures_of(probe.controls)
        share = probe.compute(window=False)["equiv/train/loss/share"]
        wrong += bool(told) or abs(share) > 1e-4
        for network in (Blind, Coupled):
            tried += 1
            missed += not failures_of(training_loop(1, 1, seed=seed, network=network).controls)
    print(f"probes: false alarms {wrong} of {count}, faults missed {missed} of {tried}")


class NoChecks(Checks):
    """A probe's controls, not run."""

    def __init__(self) -> None:
        super().__init__()
        for checks, name in ((self.calls, "of_call"), (self.calls, "of_chance"), (self.steps, "of_step")):
            setattr(checks, name, lambda *_: None)


def training(rounds: int) -> None:
    """One measured step with the controls, which are run once, and one without, by turns, over an ordinary step."""
    extra, share = [], []
    for seed in range(rounds):
        seconds = {}
        for made in (Checks, NoChecks):
            vars(probes_module)["Checks"] = made
            began = time.process_time()
            training_loop(1, 1, seed=seed)
            seconds[made] = time.process_time() - began
        began = time.process_time()
        training_loop(20, None, seed=seed)
        step = (time.process_time() - began) / 20
        extra.append((seconds[Checks] - seconds[NoChecks]) / step)
        share.append((seconds[NoChecks] - step) / step)
    vars(probes_module)["Checks"] = Checks
    low, worth, high = np.quantile(extra, [0.25, 0.5, 0.75])
    print(f"the first measured step costs {1 + np.median(share):.1f} ordinary ones without controls, and with them")
    print(f"{worth:.1f} more ({low:.1f} to {high:.1f}), once: {worth / 100:.3f} % of a training of 10,000 steps")


if __name__ == "__main__":
    torch.set_num_threads(1)
    found: Any = globals()[sys.argv[1]]
    found(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
