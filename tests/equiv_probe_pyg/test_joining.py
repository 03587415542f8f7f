"""Copies joined in one batch give what each gives alone, and the batch can be taken apart again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import global_add_pool

import equiv_probe as ep
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.rotations.drawing import draw

from .graph_models import SIZES, Complex, Equivariant, Everything, batch_of, graph, hetero, heteros

COPIES = 4


def orbit(module: nn.Module, *args: Any, schema: ep.Schema | None = None, **kwargs: Any) -> tuple[Any, Any, Any]:
    """A live orbit, its kept call and some rotations of each structure."""
    live = LiveOrbit(module.eval(), schema)
    call = live.keep(args, kwargs)
    live.resolve(call, module(*args, **kwargs))
    structures = live.structures(call.inputs)
    plan = ep.RotationPlan("haar", COPIES, seed=1)
    return live, call, draw(plan, plan.generator(), structures.count)[:, 0]


def joined_and_apart(live: Any, call: Any, rotations: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    structures = live.structures(call.inputs)
    rotated = structures.rotate(call.inputs, live.schema, rotations)
    joined = live.adapter.stack(call.inputs, rotated)
    assert joined is not None
    together = structures.rotate_back(joined[1](live.copies._one(call, joined[0])), live.schema, rotations)
    each = [live.rotated_back(call, structures, g[None]) for g in rotations]
    return together, {name: torch.cat([one[name] for one in each]) for name in together}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        # Sums run over the same numbers in the same order, but in kernels that may be blocked otherwise.
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("time", [None, "tensor per graph", "number"])
def test_outputs_of_nodes_edges_and_graphs_with_cells_and_shifts(time: str | None) -> None:
    t = {None: None, "tensor per graph": torch.linspace(1, 2, 4).double(), "number": torch.tensor(0.5).double()}[time]
    batch, model = batch_of(), Everything()
    live, call, rotations = orbit(model, batch, t=t)
    together, apart = joined_and_apart(live, call, rotations)
    assert set(together) == {"energy", "forces", "edge_flow", "stress"}
    same(together, apart)
    # And each structure on its own, rotated by hand.
    for b, data in enumerate(batch.to_data_list()):
        for k, g in enumerate(rotations[:, b]):
            rotated = data.clone()
            rotated.pos, rotated.cell, rotated.edge_shift = data.pos @ g.mT, data.cell @ g.mT, data.edge_shift @ g.mT
            output = model(rotated, None if t is None else t if t.ndim == 0 else t[b])
            torch.testing.assert_close(together["energy"][k, b], output["energy"][0], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(together["forces"][k, batch.batch == b], output["forces"] @ g)
            edges = batch.batch[batch.edge_index[0]] == b
            torch.testing.assert_close(together["edge_flow"][k, edges], output["edge_flow"] @ g)
            torch.testing.assert_close(together["stress"][k, b], g.mT @ output["stress"][0] @ g)


def test_what_each_tensor_is() -> None:
    live, _, _ = orbit(Everything(), batch_of())
    inputs = live.schema.inputs
    assert {n for n, rep in inputs.items() if rep == ep.vector} == {"cell", "edge_shift", "force", "dipole"}
    assert inputs["pos"] == ep.point
    assert inputs["stress"] == ep.tensor(2)
    assert inputs["images"] == inputs["y"] == ep.fixed


def test_a_joined_batch_is_a_batch() -> None:
    batch = batch_of()
    live, call, rotations = orbit(Everything(), batch)
    rotated = live.structures(call.inputs).rotate(call.inputs, live.schema, rotations)
    (joined,), _ = call.rebuild(live.adapter.stack(call.inputs, rotated)[0])
    count = len(SIZES)
    assert joined.num_graphs == COPIES * count
    assert len(joined.ptr) == COPIES * count + 1
    assert torch.equal(joined.batch.bincount(), torch.tensor(SIZES).repeat(COPIES))
    assert joined.num_nodes == COPIES * sum(SIZES)
    for k, data in enumerate(joined.to_data_list()):
        original, g = graph(SIZES[k % count], k % count), rotations[k // count, k % count]
        assert torch.equal(data.edge_index, original.edge_index)
        assert torch.equal(data.z, original.z)
        assert data.name == original.name
        torch.testing.assert_close(data.cell, original.cell @ g.mT)
        torch.testing.assert_close(torch.cdist(data.pos, data.pos), torch.cdist(original.pos, original.pos))
    assert batch.num_graphs == count, "the user's own is as it was"


class Pair(Data):
    """Two point clouds with edges between them, and triples that count by a constant."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "edge_index":
            return torch.tensor([[len(self.pos)], [len(self.pos_t)]])
        if key == "slot":
            return 5
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return None if key == "field" else super().__cat_dim__(key, value, *args, **kwargs)


def pair(n: int, m: int, seed: int) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Pair(
        pos=draw(n, 3),
        pos_t=draw(m, 3),
        edge_index=torch.cartesian_prod(torch.arange(n), torch.arange(m)).T,
        slot=torch.tensor([seed % 5, 4]),
        field=draw(3),
        num_nodes=n,
    )


class PairModel(nn.Module):
    def forward(self, data: Any) -> dict[str, Tensor]:
        i, j = data.edge_index
        arrows = data.pos_t[j] - data.pos[i] + data.field[data.batch[i]]
        pushed = torch.zeros_like(data.pos).index_add(0, i, torch.tanh(arrows) * arrows[:, :1])
        slots = torch.zeros(5 * data.num_graphs, dtype=torch.float64)
        used = slots.index_add(0, data.slot, torch.arange(len(data.slot)).double() % 2 + 1)
        return {"forces": pushed, "energy": used.reshape(-1, 5) @ torch.arange(5.0).double()}


def test_a_class_with_increments_of_its_own() -> None:
    batch = Batch.from_data_list([pair(3, 2, 0), pair(4, 5, 1), pair(2, 2, 2)], follow_batch=["pos_t"])
    schema = ep.Schema(
        {"pos": ep.point, "pos_t": ep.point, "field": ep.vector}, {"forces": ep.vector, "energy": ep.scalar}
    )
    live, call, rotations = orbit(PairModel(), batch, schema=schema)
    same(*joined_and_apart(live, call, rotations))
    rotated = live.structures(call.inputs).rotate(call.inputs, live.schema, rotations)
    (joined,), _ = call.rebuild(live.adapter.stack(call.inputs, rotated)[0])
    for k, data in enumerate(joined.to_data_list()):
        original = batch.get_example(k % 3)
        assert torch.equal(data.edge_index, original.edge_index)
        assert torch.equal(data.slot, original.slot)
    assert torch.equal(joined.pos_t_batch.bincount(), torch.tensor([2, 5, 2]).repeat(COPIES))
    assert joined.num_nodes == 9 * COPIES


def test_a_heterogeneous_graph_rotates_about_the_centroid_of_all_its_points() -> None:
    batch, model = heteros(), Complex()
    live, call, rotations = orbit(model, batch)
    structures = live.structures(call.inputs)
    for b in range(3):
        one = batch.get_example(b)
        centre = torch.cat([one["ligand"].pos, one["protein"].pos]).mean(0)
        torch.testing.assert_close(structures.center[b], centre)
    together, apart = joined_and_apart(live, call, rotations)
    same(together, apart)
    for b in range(3):
        for k, g in enumerate(rotations[:, b]):
            one = batch.get_example(b)
            for kind in ("ligand", "protein"):
                one[kind].pos = one[kind].pos @ g.mT
            output = model(one)
            own = {"ligand": batch["ligand"].batch == b, "protein_forces": batch["protein"].batch == b}
            for name, mine in own.items():
                torch.testing.assert_close(together[name][k, mine], output[name] @ g)
            torch.testing.assert_close(together["energy"][k, b], output["energy"][0])
    single = LiveOrbit(model, live.schema)
    kept = single.keep((hetero(3, 5, 0),), {})
    torch.testing.assert_close(single.structures(kept.inputs).center, structures.center[0])


def test_a_plain_call_of_tensors_with_a_cell() -> None:
    class Periodic(nn.Module):
        def forward(self, pos: Tensor, edge_index: Tensor, edge_shift: Tensor, cell: Tensor, batch: Tensor) -> Any:
            arrows = pos[edge_index[1]] - pos[edge_index[0]] + edge_shift
            forces = torch.zeros_like(pos).index_add(0, edge_index[0], arrows.tanh())
            return forces, global_add_pool(forces.square() @ torch.arange(3.0).double(), batch) + cell.reshape(-1, 9)[
                :, 1
            ]

    batch = batch_of()
    args = batch.pos, batch.edge_index, batch.edge_shift, batch.cell, batch.batch
    live, call, rotations = orbit(Periodic(), *args)
    assert live.schema.inputs["cell"] == live.schema.inputs["edge_shift"] == ep.vector
    same(*joined_and_apart(live, call, rotations[:, : len(batch.pos)]))


def test_tensors_without_a_number_of_graphs_are_joined_all_the_same() -> None:
    torch.manual_seed(0)
    batch, model = batch_of(), Equivariant().double()
    live, call, rotations = orbit(model, batch.z, batch.pos, batch.edge_index, batch.batch)
    together, apart = joined_and_apart(live, call, rotations)
    same(together, apart)
    assert together["0"].shape == (COPIES, len(SIZES), 1)


class Mixing(nn.Module):
    """Looks beyond its graph: what it says of a batch is not what it says of its parts."""

    def forward(self, data: Any) -> Tensor:
        return data.pos - data.pos[0] * data.pos.square().mean()


def test_a_model_that_looks_beyond_its_graph_is_noticed_and_called_once_per_copy() -> None:
    live, call, rotations = orbit(Mixing(), batch_of(), schema=ep.Schema({"pos": ep.point}, {"0": ep.vector}))
    structures = live.structures(call.inputs)
    found = live.rotated_back(call, structures, rotations)
    each = torch.cat([live.rotated_back(call, structures, g[None])["0"] for g in rotations])
    assert live.copies.stacks is False
    torch.testing.assert_close(found["0"], each)


@pytest.mark.parametrize("what", ["a graph without a batch", "an attribute of another length", "a list of tensors"])
def test_what_cannot_be_joined_is_evaluated_one_by_one(what: str) -> None:
    data: Any = graph(5) if what.startswith("a graph") else batch_of()
    if what.startswith("an attribute"):
        data.extra = torch.ones(2, dtype=torch.float64)
    if what.startswith("a list"):
        data.extra = [torch.ones(3), torch.ones(2)]
    live, call, rotations = orbit(Everything(), data)
    structures = live.structures(call.inputs)
    rotated = structures.rotate(call.inputs, live.schema, rotations)
    assert live.adapter.stack(call.inputs, rotated) is None
    found = live.rotated_back(call, structures, rotations)
    expected = Everything()(data)["energy"]
    assert found["energy"].shape == (COPIES, *expected.shape)
    assert not torch.allclose(found["energy"][0], expected), "turned"
