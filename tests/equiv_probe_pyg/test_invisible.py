"""Promise 1 on PyG's loaders and batches, and no waiting for the device on the training path."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.loader import DataLoader
from torch_geometric.nn import BatchNorm

import equiv_probe as ep
from equiv_probe_pyg import attach

from .graph_models import GraphTransformer, batch_of, graph, heteros

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


class Noisy(GraphTransformer):
    """With dropout and batch norm, and a habit of writing into its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = BatchNorm(16), nn.Dropout(0.2)
        self.first = nn.Linear(3, 16)

    def forward(self, data: Any) -> dict[str, Tensor]:
        data.features = self.drop(self.norm(self.first(data.pos)))
        output = super().forward(data)
        return {**output, "forces": output["forces"] + data.features[:, :3]}


def train(mode: str, workers: int) -> tuple[list[bytes], list[float], ep.Probe | None]:
    """150 steps of a plain loop; all that training leaves behind."""
    torch.manual_seed(0)
    graphs = [graph(4 + k % 5, k, torch.float32) for k in range(20)]
    loader = DataLoader(graphs, batch_size=4, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    model = Noisy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    targets = {"energy": "y", "forces": "force"}
    with attach(model, None, targets, every=4) if mode != "without" else nullcontext() as probe:
        for _ in range(30):
            for batch in loader:

                def step(batch: Any = batch) -> Tensor:
                    noise = 0.01 * torch.randn_like(batch.force)
                    output = model(batch)
                    return (output["forces"] - batch.force + noise).square().mean() + output["energy"].square().mean()

                loss = probe.step(step) if mode == "step" else step()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
    tensors = [*model.state_dict().values(), torch.get_rng_state(), *(p.grad for p in model.parameters())]
    tensors += [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    return [t.numpy().tobytes() for t in tensors if t is not None], losses, probe


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_bit_identical(workers: int) -> None:
    without, losses, _ = train("without", workers)
    assert len(losses) == 150
    for mode in ("hooks", "step"):
        found, probed, probe = train(mode, workers)
        assert found == without
        assert probed == losses
        assert probe is not None
        assert not probe.failures
        keys = {("train", "loss")} if mode == "step" else {("train", "energy"), ("train", "forces")}
        assert set(probe.running) == keys, "it did measure"


@pytest.mark.slow
def test_a_probe_that_draws_from_the_global_state_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    without, _, _ = train("without", 0)
    monkeypatch.setattr("equiv_probe.live.random_state.RandomState.restore", lambda self: None)
    monkeypatch.setattr("equiv_probe.live.isolation.ModuleState.restore", lambda self: None)
    assert train("hooks", 0)[0] != without


class NoReading(TorchDispatchMode):
    """Raises when an operator would wait for a device."""

    NAMES = frozenset(
        {"_local_scalar_dense", "item", "equal", "nonzero", "is_nonzero", "masked_select", "_unique2", "allclose"}
    )

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        index = args[1] if name in {"index", "index_put_"} else ()
        if name in self.NAMES or any(isinstance(i, Tensor) and i.dtype == torch.bool for i in index):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


class Reading(nn.Module):
    """Nodes, edges and graphs without a read of the model's own."""

    def forward(self, data: Any) -> dict[str, Tensor]:
        i, j = data.edge_index
        arrows = (data.pos[j] - data.pos[i] + data.edge_shift).tanh()
        forces = torch.zeros_like(data.pos).index_add(0, i, arrows)
        energy = torch.zeros(data.num_graphs, dtype=forces.dtype, device=forces.device)
        return {"energy": energy.index_add(0, data.batch, forces[:, 0]), "forces": forces}


class ReadingTensors(nn.Module):
    def forward(self, pos: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        arrows = (pos[edge_index[1]] - pos[edge_index[0]]).tanh()
        return torch.zeros_like(pos).index_add(0, edge_index[0], arrows)


class ReadingTypes(nn.Module):
    def forward(self, data: HeteroData) -> Tensor:
        i, j = data["ligand", "near", "protein"].edge_index
        arrows = (data["protein"].pos[j] - data["ligand"].pos[i]).tanh()
        return torch.zeros_like(data["ligand"].pos).index_add(0, i, arrows)


def calls() -> list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
    batch = batch_of()
    tensors = batch.pos, batch.edge_index, batch.batch
    return [
        (Reading(), (batch,), {"targets": {"energy": "y", "forces": "force"}}),
        (ReadingTensors(), tensors, {}),
        (ReadingTypes(), (heteros(),), {"outputs": {"ligand": ep.vector}}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("mode", ["hooks", "step", "augmented"])
def test_nothing_on_the_training_path_reads_from_the_device(
    kind: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("probe.player", "live.kept_numbers"):
        monkeypatch.setattr(f"equiv_probe.{where}.at_hand", lambda value: False)
    model, args, options = calls()[kind]

    def call() -> Any:
        output = model(*args)
        return sum(v.square().mean() for v in (output.values() if isinstance(output, dict) else [output]))

    with attach(model, every=1, **options) as probe, ep.augment(model) if mode == "augmented" else nullcontext():
        probe.step(call) if mode == "step" else call()  # the first measurement may look at what it was given
        with NoReading():
            for _ in range(3):
                probe.step(call) if mode == "step" else call()
    assert not probe.failures
    assert all(running.everything.count > 0 for running in probe.running.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_nothing_waits_on_a_device(kind: int) -> None:
    model, args, options = calls()[kind]
    args = tuple(value.to("cuda") for value in args)
    with attach(model, every=1, **options) as probe:
        model(*args)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                model(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not probe.failures
