"""What a probe at its defaults costs in five trainings, each of minutes: processor time with it over without.

    EQUIV_PROBE_DATA=... OMP_NUM_THREADS=1 python tests/benchmarks/bench_cost.py [--seconds 120] [--pairs 3]

Trainings with and without the probe alternate, of as many steps each as take the seconds that were asked for. Of the
ratio of their processor times (which other programs disturb less than the clock, and still by some percent) the median
is printed with the range. Beside it stands what is not disturbed so: the processor time inside of the probe, the user's
own step left out, over that of the rest of the same run; that of the first measurement; and what the report says.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.io import read
from torch import Tensor, nn
from torch.utils.data import DataLoader

import equiv_probe as ep
from equiv_probe.probe.hooks import Hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "integrations" / "voxel"), str(ROOT / "tests" / "benchmarks")]
CALIBRATING = 30
"""Steps by which it is found out how many take the seconds that were asked for."""


class Inside:
    """Processor seconds inside of the probe's functions, without those of the user's own functions that these call."""

    def __init__(self) -> None:
        self.seconds, self.each = 0.0, [0.0]
        """All, and those of each call from outside."""
        self._stack = [False]
        self._since = 0.0

    def _switch(self) -> None:
        now = time.thread_time()
        if self._stack[-1]:
            self.seconds += now - self._since
            self.each[-1] += now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], *, ours: bool = True) -> Callable[..., Any]:
        """The function, whose time counts, or as the user's does not."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            if ours and len(self._stack) == 1:
                self.each.append(0.0)
            self._stack.append(ours)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._stack.pop()

        return run

    def once(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The user's own step: its first run is the user's, others are the probe's."""
        first = self.timed(function, ours=False)
        ran: list[bool] = []

        def run(*args: Any, **kwargs: Any) -> Any:
            if ran:
                return function(*args, **kwargs)
            ran.append(True)
            return first(*args, **kwargs)

        return run

    def hooks_of(self, probe: ep.Probe) -> None:
        """Count what the probe's hooks on the network take."""
        for hook in probe._hooks._both:
            if hook._plain is not None:
                hook._plain = self.timed(hook._plain)


@dataclass
class Ran:
    """One training: its processor seconds, and what was spent inside of the probe."""

    seconds: float
    inside: Inside
    said: str = ""


def stepping(probe: ep.Probe | None, inside: Inside) -> Callable[[Callable[[], Tensor]], Tensor]:
    """Runs steps, through the probe if there is one."""
    if probe is None:
        return lambda step: step()
    timed = inside.timed(probe.step)
    return lambda step: timed(inside.once(step))


def loop(net: nn.Module, loss_of: Callable[[Any], Tensor], source: Iterator[Any], steps: int, *, probed: bool) -> Ran:
    """A plain loop with steps."""
    inside, optimizer = Inside(), torch.optim.AdamW(net.parameters(), 1e-3)
    began = time.process_time()
    probe = ep.Probe(net) if probed else None
    step_of = stepping(probe, inside)
    for _ in range(steps):
        batch = next(source)
        loss = step_of(lambda batch=batch: loss_of(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = "" if probe is None else str(inside.timed(probe.report)().protocol["cost"])
    return Ran(time.process_time() - began, inside, said)


@cache
def ethanol() -> tuple[Tensor, Tensor, Tensor]:
    """Elements ``(9,)``, positions (Å) and forces of unit size, ``(1000, 9, 3)``."""
    atoms = read(Path(os.environ["EQUIV_PROBE_DATA"]) / "ethanol_rmd17" / "train.xyz", ":1000")
    pos = torch.tensor(np.stack([one.positions - one.positions.mean(0) for one in atoms])).float()
    forces = torch.tensor(np.stack([one.get_forces() for one in atoms])).float()
    return torch.tensor(atoms[0].numbers), pos, forces / forces.std()


def flow(steps: int, *, probed: bool) -> Ran:
    """Flow matching on ethanol by a plain transformer: noise and times are drawn in the step."""

    class Velocity(nn.Module):
        def __init__(self, width: int = 96) -> None:
            super().__init__()
            self.kind, self.place, self.time = nn.Embedding(20, width), nn.Linear(3, width), nn.Linear(1, width)
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
            self.body, self.read = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(width, 3)

        def forward(self, pos: Tensor, t: Tensor, z: Tensor) -> Tensor:
            return self.read(self.body(self.kind(z) + self.place(pos) + self.time(t[:, None, None])))

    torch.manual_seed(0)
    net, (z, pos, _) = Velocity(), ethanol()

    def loss_of(x1: Tensor) -> Tensor:
        x0, t = torch.randn_like(x1), torch.rand(len(x1))
        x0 = x0 - x0.mean(1, keepdim=True)
        x_t = (1 - t[:, None, None]) * x0 + t[:, None, None] * x1
        return (net(x_t, t, z.expand(len(x1), -1)) - (x1 - x0)).square().mean()

    def source() -> Iterator[Tensor]:
        while True:
            yield pos[torch.randint(len(pos), (64,))]

    return loop(net, loss_of, source(), steps, probed=probed)


def voxels(steps: int, *, probed: bool) -> Ran:
    """Denoising of ethanol on grids by a U-Net."""
    from networks import UNet

    torch.manual_seed(0)
    net, (_, pos, _) = UNet(1, (8, 16)), ethanol()
    line = torch.linspace(-4, 4, 24)
    cells = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)

    def loss_of(grid: Tensor) -> Tensor:
        return (net(grid + 0.3 * torch.randn_like(grid)) - grid).square().mean()

    def source() -> Iterator[Tensor]:
        while True:
            own = pos[torch.randint(len(pos), (8,))]
            density = torch.exp(-torch.cdist(cells.expand(8, -1, -1), own).square() / 0.5).sum(-1)
            yield density.reshape(8, 1, 24, 24, 24)

    return loop(net, loss_of, source(), steps, probed=probed)


def graphs(steps: int, *, probed: bool) -> Ran:
    """A loop over PyG's graphs that knows nothing of the probe, which hangs on the network by its hooks."""
    from bench_pyg import GraphTransformer, batches

    from equiv_probe_pyg import attach

    torch.manual_seed(0)
    net, source, inside = GraphTransformer(), batches(None, 32), Inside()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    began = time.process_time()
    probe = attach(net, {"forces": ep.vector}, {"forces": "forces"}) if probed else None
    if probe is not None:
        inside.hooks_of(probe)
    for _ in range(steps):
        batch = next(source)
        loss = (net(batch)["forces"] - batch.forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = "" if probe is None else str(inside.timed(probe.report)().protocol["cost"])
    if probe is not None:
        probe.remove()
    return Ran(time.process_time() - began, inside, said)


def fit(module: Any, loaders: tuple[Any, Any], callback: Any, steps: int) -> Ran:
    """A fit by Lightning with four validations."""
    import pytorch_lightning as pl

    from equiv_probe_lightning.step import Step

    inside = Inside()
    if callback is not None:
        names = [name for name in dir(callback) if name.startswith("on_")]
        for name in ["setup", *(name for name in names if name in vars(type(callback).__mro__[1]))]:
            setattr(callback, name, inside.timed(getattr(callback, name)))
        attach, called = Hooks.attach, Step.__call__

        def attached(hooks: Hooks, **how: Any) -> None:
            fresh = not hooks._handles
            attach(hooks, **how)
            for hook in hooks._both if fresh else ():
                hook._plain = inside.timed(hook._plain)

        timed_call = inside.timed(called)

        def stepped(step: Step, *args: Any, **kwargs: Any) -> Any:
            own = step.original  # to wrap it takes longer than what the callback does at most steps: that is not timed
            step.original = functools.update_wrapper(inside.once(own), own)
            try:
                return timed_call(step, *args, **kwargs)
            finally:
                step.original = own

        Hooks.attach = attached  # type: ignore[method-assign]
        Step.__call__ = stepped  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=pl.loggers.CSVLogger(folder),
            callbacks=[callback] if callback is not None else [],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            check_val_every_n_epoch=None,
            val_check_interval=max(1, steps // 4),
            num_sanity_val_steps=0,
            inference_mode=False,
        )
        began = time.process_time()
        try:
            trainer.fit(module, *loaders)
        finally:
            if callback is not None:
                Hooks.attach, Step.__call__ = attach, called  # type: ignore[method-assign]
        seconds = time.process_time() - began
    said = "" if callback is None else str(callback.probe.report().protocol["cost"])
    return Ran(seconds, inside, said)


def lightning(steps: int, *, probed: bool) -> Ran:
    """A graph transformer on ethanol under Lightning, with validation."""
    import pytorch_lightning as pl
    from bench_pyg import GraphTransformer
    from bench_pyg import graphs as structures
    from torch_geometric.loader import DataLoader as GraphLoader

    from equiv_probe_lightning import EquivarianceCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = GraphTransformer()

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = (self.net(batch)["forces"] - batch.forces).square().mean()
            self.log("train_loss", loss, batch_size=32)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", (self.net(batch)["forces"] - batch.forces).square().mean(), batch_size=32)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 1e-3)

    pl.seed_everything(0, verbose=False)
    kept = structures(1000)
    loaders = GraphLoader(kept[:800], 32, shuffle=True), GraphLoader(kept[800:], 32)
    return fit(Module(), loaders, EquivarianceCallback(verbose=False) if probed else None, steps)


@cache
def molecules() -> list[dict[str, Tensor]]:
    """Ethanol as SchNetPack's loader gives it to its collate function."""
    import schnetpack as spk

    z, pos, forces = ethanol()
    neighbours, found = spk.transform.MatScipyNeighborList(cutoff=5.0), []
    for number, (x, f) in enumerate(zip(pos, forces, strict=True)):
        one = {"_idx": torch.tensor([number]), "_n_atoms": torch.tensor([len(z)]), "_atomic_numbers": z}
        one |= {"_positions": x.double(), "_cell": torch.zeros(1, 3, 3).double(), "_pbc": torch.zeros(3).bool()}
        found.append({k: v.float() if v.is_floating_point() else v for k, v in neighbours(one).items()})
        found[-1] |= {"energy": torch.zeros(1), "forces": f}
    return found


def painn(steps: int, *, probed: bool) -> Ran:
    """SchNetPack's PaiNN with forces as gradients, by its own task, with validation."""
    import pytorch_lightning as pl
    import schnetpack as spk
    from schnetpack.data.loader import _atoms_collate_fn

    from equiv_probe_schnetpack import EquivarianceCallback

    pl.seed_everything(0, verbose=False)
    basis = spk.nn.GaussianRBF(n_rbf=20, cutoff=5.0)
    network = spk.representation.PaiNN(64, 3, basis, cutoff_fn=spk.nn.CosineCutoff(5.0))
    model = spk.model.NeuralNetworkPotential(
        representation=network,
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=64, output_key="energy"), spk.atomistic.Forces()],
    )
    of_forces = spk.task.ModelOutput("forces", loss_fn=nn.MSELoss(), loss_weight=1.0, metrics={})
    task = spk.AtomisticTask(model, [of_forces], optimizer_args={"lr": 1e-3})
    kept = molecules()
    loaders = tuple(DataLoader(part, 16, collate_fn=_atoms_collate_fn) for part in (kept[:800], kept[800:]))
    return fit(task, loaders, EquivarianceCallback(verbose=False) if probed else None, steps)


TRAININGS = {"lightning": lightning, "painn": painn, "graphs": graphs, "flow": flow, "voxels": voxels}


def main() -> None:
    """Print a line for each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each run")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print("training    steps  with/without (range)     inside of the probe  first, ms  the report says")
    for name in args.only:
        train = TRAININGS[name]
        train(3, probed=True)
        steps = max(40, round(args.seconds * CALIBRATING / train(CALIBRATING, probed=False).seconds))
        pairs = [(train(steps, probed=False), train(steps, probed=True)) for _ in range(args.pairs)]
        ratios = [one.seconds / without.seconds for without, one in pairs]
        inside = [one.inside.seconds / (one.seconds - one.inside.seconds) for _, one in pairs]
        first = 1000 * statistics.median(max(one.inside.each[:60]) for _, one in pairs)
        print(
            f"{name:<10} {steps:>6}  {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
            f"     {1 + statistics.median(inside):>8.4f} {first:>18.0f}      {pairs[-1][1].said}",
            flush=True,
        )


if __name__ == "__main__":
    main()
