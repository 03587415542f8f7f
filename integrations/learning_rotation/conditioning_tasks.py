"""Two networks at step 500, with both losses as functions of a block of weights, under rotations that one chooses.

EScAIP on ethanol: its backbone is invariant, and what a rotation does to its force is linear in a matrix for every atom
(see :meth:`EScAIP.outputs`). So 10 rotations cost as much as three, and the average over all of them is known exactly.
The flow transformer on ligands is evaluated once for every rotation.
"""

from __future__ import annotations

import fnmatch
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.spatial.transform import Rotation
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

HERE = Path(__file__).parent
RUNS = HERE / "runs"
STEP = 500
BATCH = 4
"""Structures of which the losses are."""
CYCLES = torch.stack([torch.eye(3, dtype=torch.float64).roll(k, 0) for k in range(3)])
"""The rotations by 0, 120 and 240 degrees about (1, 1, 1)."""


def haar(count: int, seed: int) -> Tensor:
    """Random rotations ``(K, 3, 3)``, float64."""
    return torch.tensor(Rotation.random(count, random_state=seed).as_matrix())


class InFloat64(TorchFunctionMode):
    """New tensors are float64, and so are casts to float32 that stand in a model's code."""

    def __enter__(self) -> Any:
        """Float64 is the default."""
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """The default is what it was."""
        super().__exit__(*error)
        torch.set_default_dtype(self.before)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Of ``.to(torch.float32)`` and ``.float()``."""
        del types
        args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        kwargs = {k: torch.float64 if one is torch.float32 else one for k, one in (kwargs or {}).items()}
        return func(*args, **kwargs) if func is not torch.Tensor.float else args[0].double()


@dataclass
class Task:
    """A network after 500 steps.

    Attributes:
        name: of it.
        net: which.
        blocks: the weights to look at, as a pattern of names, by what they are called here.
        precision: of weights and inputs.
        outputs: from rotations ``(K, 3, 3)`` to what the network gives for rotated copies, rotated back, ``(K, M, 3)``.
        labels: what they should be, ``(M, 3)``.
        averaged: from nothing to the output averaged over all rotations and ``L_equiv``, both exact; None: not known.
        redraw: other noise and times, by a seed; None where there are none.
    """

    name: str
    net: nn.Module
    blocks: dict[str, str]
    precision: torch.dtype
    outputs: Callable[[Tensor], Tensor]
    labels: Callable[[], Tensor]
    averaged: Callable[[], tuple[Tensor, Tensor]] | None = None
    redraw: Callable[[int], None] | None = None

    def weights(self, block: str) -> dict[str, Tensor]:
        """Of a block, by name."""
        return {name: p for name, p in self.net.named_parameters() if fnmatch.fnmatch(name, self.blocks[block])}


@dataclass(frozen=True)
class Losses:
    """``L_total``, ``L_mean`` and ``L_equiv`` of a task under fixed rotations, by the plug-in estimates of the paper.

    ``L_mean`` is the loss of the average output over the K rotations, ``L_equiv`` the variance about it.

    Attributes:
        task: of which.
        count: K; 0 for the exact average over all rotations.
        seed: of the rotations.
        noise: seed of noise and times.
        redraws: what :meth:`redrawn` changes: ``"rotations"``, or ``"all"``: noise and times too.
    """

    task: Task
    count: int = 10
    seed: int = 0
    noise: int = 0
    redraws: str = "rotations"

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three, 0-d with graph."""
        if self.count == 0:
            assert self.task.averaged is not None
            output, equiv = self.task.averaged()
            mean = (output - self.task.labels()).square().mean()
            return mean + equiv, mean, equiv
        if self.task.redraw is not None:
            self.task.redraw(self.noise)
        h = self.task.outputs(haar(self.count, self.seed).to(self.task.precision))
        mean, equiv = (h.mean(0) - self.task.labels()).square().mean(), (h - h.mean(0)).square().mean()
        return mean + equiv, mean, equiv

    def redrawn(self, generator: torch.Generator) -> Losses:
        """The same with others."""
        seed, noise = torch.randint(2**31, (2,), generator=generator).tolist()
        return replace(self, seed=seed, noise=noise if self.redraws == "all" else self.noise)


def escaip(seed: int, precision: torch.dtype = torch.float64) -> Task:
    """EScAIP on ethanol, 17,000 weights, 400 structures in batches of 8, Adam, no augmentation."""
    _path("escaip")
    import escaip as source

    source.SIZES["conditioning"] = source.Size(16, 1, 2, (3, 2, 2, 1))
    rest, held_out = source.frames("ethanol")
    held, train = held_out[:BATCH], [*held_out[BATCH:], *rest]
    scale = float(source.labels(train).square().mean().sqrt())
    net = source.escaip("conditioning", neighbours=8, seed=seed)
    batches = [train[k : k + 8] for k in range(0, 400, 8)]
    ready = cache(lambda k: (source.batch(batches[k]), source.labels(batches[k]).float()))

    def loss(step: int) -> Tensor:
        data, wanted = ready(step % len(batches))
        return ((source.forces_of(net, data) - wanted) / scale).square().mean()

    _trained(net, loss, f"escaip16-{seed}", torch.optim.Adam(net.parameters(), lr=1e-3))
    net = net.to(precision).eval()
    three = held * 3
    data = source.batch(three, CYCLES.repeat_interleave(BATCH, 0))
    for name in ("pos", "cell", "cell_offsets"):
        data[name] = data[name].to(precision)
    mode: AbstractContextManager[Any] = InFloat64() if precision is torch.float64 else nullcontext()
    wanted = (source.labels(held) / scale).to(precision)

    def matrices() -> Tensor:
        """``A_c = s Σ_j (w_c · e_j) d_j`` for every atom, ``(M, 3, 3)``: the force is its diagonal after rotation.

        Component c of the force is that of ``A_c``. With the coordinates cycled, ``d_jc`` becomes ``d_j(c-k)``.
        """
        with mode:
            forces = source.forces_of(net, data.clone()).reshape(3, -1, 3) / scale
        place = torch.arange(3)
        a = forces.new_zeros(forces.shape[1], 3, 3)
        for k in range(3):
            a = a.index_put((torch.arange(len(a))[:, None], place, (place - k) % 3), forces[k])
        return a

    def outputs(g: Tensor) -> Tensor:
        """Rotated back, ``h_a = Σ_c g_ca Σ_b g_cb A_cb``."""
        return torch.einsum("kca,kcb,mcb->kma", g, g, matrices())

    def averaged() -> tuple[Tensor, Tensor]:
        a = matrices()
        return a.mean(1), (a - a.mean(1, keepdim=True)).square().sum(1).mean() / 3

    blocks = {
        "feed-forward": "backbone.transformer_blocks.0.feedforward.mlp_edge.*",
        "head": "output_heads.forces.force_direction_layer.final_output.*",
    }
    return Task("escaip", net, blocks, precision, outputs, lambda: wanted, averaged)


def flow(seed: int, precision: torch.dtype = torch.float64, structures: int = BATCH) -> Task:
    """The flow transformer on ligands, batches of 64, AdamW, with augmentation as in Proteina."""
    _path("flow")
    import flow as source
    import structures as sets
    from transformer import Transformer

    import equiv_probe as ep

    train, held = sets.load("ligands")
    torch.manual_seed(seed)
    net = Transformer(256, 64, 2, 4)
    augmentation = ep.augment(net, source.schema("velocity"), center="origin", seed=seed)

    def loss(step: int) -> Tensor:
        torch.manual_seed(10**6 * seed + step)
        return source.loss(net, *train.random(64))

    _trained(net, loss, f"flow-{seed}", torch.optim.AdamW(net.parameters(), lr=1e-3))
    augmentation.remove()
    net = net.to(precision).eval()
    x1, z, mask = held.take(torch.arange(structures))
    x1 = x1.to(precision)
    drawn: dict[str, Tensor] = {}

    def redraw(number: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(number)
            drawn["x0"], drawn["t"] = source.draw(x1, mask)

    def outputs(g: Tensor) -> Tensor:
        x = torch.lerp(drawn["x0"], x1, drawn["t"][:, None, None])
        copies = torch.einsum("kab,snb->ksna", g, x).flatten(0, 1)
        k = len(g)
        v = net(copies, drawn["t"].repeat(k), z.repeat(k, 1), mask.repeat(k, 1)).unflatten(0, (k, -1))
        return torch.einsum("kba,ksnb->ksna", g, v)[:, mask]

    redraw(0)
    return Task("flow", net, {"last": "read.*"}, precision, outputs, lambda: (x1 - drawn["x0"])[mask], redraw=redraw)


TASKS: dict[str, Callable[..., Task]] = {"escaip": escaip, "flow": flow}


def _trained(net: nn.Module, loss: Callable[[int], Tensor], name: str, optimizer: torch.optim.Optimizer) -> None:
    """The weights of step 500, from the file if they are there."""
    path = RUNS / f"conditioning-{name}.pt"
    if not path.exists():
        net.train()
        for step in range(STEP):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1, (step + 1) / 50)
            optimizer.zero_grad()
            now = loss(step)
            now.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 100.0)
            optimizer.step()
            if step % 100 == 0 or step == STEP - 1:
                print(f"{name} {step}: {now.item():.4g}", flush=True)
        path.parent.mkdir(exist_ok=True)
        torch.save(net.state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    net.load_state_dict(torch.load(path, weights_only=True))


def _path(name: str) -> None:
    folder = str(HERE.parent / name)
    if folder not in sys.path:
        sys.path.insert(0, folder)
