"""How loops call their networks: nested containers, lists of structures, other methods, checkpointing, torch.func."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import equiv_probe as ep

MATRIX = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
PLAN = ep.RotationPlan("icosahedral", replicates=2)


class Linear(nn.Module):
    """``f(x) = M x`` of the coordinates about their centroid."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(MATRIX.clone())

    def force(self, pos: Tensor) -> Tensor:
        return (pos - pos.mean(-2, keepdim=True)) @ self.weight.T


def positions(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def expected(pos: Tensor) -> float:
    """``E|g⁻¹Mg x|² − |tr(M)/3 x|²`` per component: exact under a design of degree two."""
    x = pos - pos.mean(-2, keepdim=True)
    return (6 / 3 - (4 / 3) ** 2) * float(x.square().mean())


class Sample(NamedTuple):
    species: Tensor
    coords: Tensor


@dataclass(frozen=True)
class Frame:
    positions: Tensor
    name: str = "water"


class Holder:
    """A plain object, as many packages pass."""

    def __init__(self, pos: Tensor) -> None:
        self.pos, self.label = pos, "x"


WAYS: dict[str, tuple[Any, Any]] = {
    "nested dict": (
        lambda p: {"inputs": {"deep": {"pos": p}}, "labels": {"f": p}},
        lambda b: b["inputs"]["deep"]["pos"],
    ),
    "named tuple": (lambda p: Sample(torch.arange(p.shape[-2]), p), lambda b: b.coords),
    "dataclass in a dict": (lambda p: {"frame": Frame(p)}, lambda b: b["frame"].positions),
    "plain object": (Holder, lambda b: b.pos),
    "tuple in a tuple": (lambda p: ((p, None), 3), lambda b: b[0][0]),
}


@pytest.mark.parametrize("way", WAYS)
def test_coordinates_are_found_in_containers_of_any_depth(way: str) -> None:
    make, read = WAYS[way]

    class Net(Linear):
        def forward(self, batch: Any) -> dict[str, Any]:
            return {"out": {"forces": self.force(read(batch))}}

    pos, net = positions(4, 5), Net()
    given = make(pos)
    with ep.Probe(net, every=1, light=PLAN) as probe:
        net(given)
    assert probe.compute()["equiv/train/out.forces/L_equiv"] == pytest.approx(expected(pos), rel=1e-9)
    assert torch.equal(read(given), positions(4, 5)), "what was given is as it was"


def test_a_list_with_an_object_for_each_structure_is_a_batch_of_rotations_of_their_own() -> None:
    class Net(Linear):
        def forward(self, graphs: list[Holder]) -> dict[str, Any]:
            return {"e": torch.stack([g.pos.square().sum() for g in graphs]), "f": [self.force(g.pos) for g in graphs]}

    net, given = Net(), [Holder(positions(n)) for n in (4, 6, 5)]
    with ep.Probe(net, every=1, light=PLAN) as probe:
        net(given)
        net(given[:2])
    assert probe.schema is not None
    assert probe.schema.outputs == {"e": ep.scalar, "f": ep.vector}
    means = [expected(one.pos) for one in given]
    found = probe.compute(window=False)["equiv/train/f/L_equiv"]
    assert min(means) <= found <= max(means)


@pytest.mark.parametrize("graphs", [1, 2])
def test_the_stress_of_a_batch_of_one_graph_has_no_axis_of_structures(graphs: int) -> None:
    """``D xᵀx`` of each graph; of a single one ``(3, 3)``, as matgl has it: it rotates as that graph does."""

    class Stressed(nn.Module):
        def forward(self, pos: Tensor, batch: Tensor) -> dict[str, Tensor]:
            centred = [x - x.mean(0) for x in (pos[batch == k] for k in range(graphs))]
            stress = torch.stack([MATRIX @ x.T @ x for x in centred])
            return {"energy": stress.diagonal(dim1=1, dim2=2).sum(-1), "stress": stress[0] if graphs == 1 else stress}

    pos, batch = positions(4 * graphs), torch.arange(4 * graphs) // 4
    with ep.Probe(Stressed().eval(), plan=PLAN, full=1) as probe:
        probe.model(pos, batch)
    each = []
    for x in (pos[batch == k] - pos[batch == k].mean(0) for k in range(graphs)):
        group = torch.tensor(Rotation.create_group("I").as_matrix())
        each.append((group.mT @ MATRIX @ group @ x.T @ x).var(0, correction=0).mean())
    found = probe.compute(window=False)["equiv/val/stress/L_equiv"]
    assert found == pytest.approx(float(torch.stack(each).mean()), rel=1e-9)
    assert found > 0.01


def test_labels_that_the_network_is_not_given_point_to_the_step() -> None:
    class Classes(nn.Module):
        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            return {"logits": pos.norm(dim=-1)}

    with (
        ep.Probe(Classes(), every=1, targets={"logits": "labels"}) as probe,
        pytest.raises(ep.EquivProbeError, match=r"probe\.step\(lambda: loss_fn"),
    ):
        probe.model(positions(3, 4))


def test_a_network_that_is_called_by_another_method() -> None:
    class Net(Linear):
        def forward(self, pos: Tensor) -> Tensor:
            raise AssertionError

        def _forward(self, pos: Tensor) -> Tensor:
            return self.force(pos)

    net, pos = Net(), positions(4, 5)
    with ep.Probe(net, every=1, light=PLAN, method="_forward") as probe:
        net._forward(pos).square().mean().backward()
        assert torch.equal(pickle.loads(pickle.dumps(net.state_dict()))["weight"], MATRIX)
        assert "_forward" not in vars(copy.deepcopy(net)) or copy.deepcopy(net)._forward(pos).shape == pos.shape
    assert probe.compute()["equiv/train/0/L_equiv"] == pytest.approx(expected(pos), rel=1e-9)
    assert "_forward" not in vars(net), "nothing stays behind"
    with pytest.raises(ep.EquivProbeError, match="_forward"):
        ep.Probe(net, method="run")
    with pytest.raises(ep.EquivProbeError, match='method="_forward"'):
        ep.Probe(net).replay(lambda: net._forward(pos).square().mean())
    y = positions(4, 5).flip(0)
    replay = ep.Probe(net, method="_forward").replay(lambda: (net._forward(pos) - y).square().mean(), PLAN)
    assert replay.equiv == pytest.approx(expected(pos), rel=1e-9)


def test_recomputation_of_checkpointing_is_no_call() -> None:
    class Net(Linear):
        def forward(self, pos: Tensor) -> Tensor:
            return self.force(pos)

    net, pos = Net(), positions(4, 5)
    with ep.Probe(net, every=2) as probe:
        for _ in range(10):
            checkpoint(net, pos, use_reentrant=False).square().mean().backward()
    assert probe.schedule("call", "train").step == 10
    assert probe.running["train", "0"].structures == 5 * 4


def test_calls_inside_of_torch_func_are_left_alone_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Net(Linear):
        def forward(self, pos: Tensor) -> Tensor:
            return self.force(pos).square().sum()

    net, pos = Net(), positions(4, 5)
    probe = ep.Probe(net, every=1).attach()
    for _ in range(3):
        torch.func.grad(net)(pos)
    probe.remove()
    assert caplog.text.count("inside of torch.func") == 1
    assert any("inside of torch.func" in control.sentence for control in probe.controls)
    assert not probe.running


def test_what_must_be_declared_is_one_message_and_the_rest_may_be_fixed() -> None:
    class Net(Linear):
        def forward(self, pos: Tensor, a: Tensor, b: Tensor, c: Tensor) -> dict[str, Tensor]:
            return {"forces": self.force(pos), "node_feats": a.repeat(1, 4)}

    net, pos = Net(), positions(5)
    others = positions(5).flip(0), torch.randn(5, 6), torch.randn(5, 9)
    with pytest.raises(ep.EquivProbeError) as raised, ep.Probe(net, every=1):
        net(pos, *others)
    message = str(raised.value)
    assert all(f"inputs['{name}']" in message for name in "abc")
    assert "rest=ep.fixed" in message
    for schema in (ep.Schema({}, {}, rest=ep.fixed), ep.Schema({"*": ep.fixed}, {})):
        declared = ep.Schema({"pos": ep.point}, {}, rest=schema.rest)
        with ep.Probe(net, declared, every=1, light=PLAN) as probe:
            net(pos, *others)
        assert probe.schema is not None
        assert probe.schema.outputs == {"forces": ep.vector}, "features are left alone"
        assert probe.compute()["equiv/train/forces/L_equiv"] == pytest.approx(expected(pos), rel=1e-9)
    with pytest.raises(ep.EquivProbeError, match="rest=vector"):
        ep.Schema({}, {}, rest=ep.vector)


def test_several_calls_in_a_step_say_whose_error_it_is() -> None:
    class Net(Linear):
        def forward(self, pos: Tensor) -> Tensor:
            return self.force(pos)

    net, pos = Net(), positions(4, 5)
    probe = ep.Probe(net, every=1)
    probe.step(lambda: (pos + 0.1 * net(pos + 0.1 * net(pos))).square().mean())
    assert any("calls the network 2 times" in control.sentence for control in probe.controls)
    once = ep.Probe(net, every=1)
    once.step(lambda: (pos + net(pos)).square().mean())
    assert not any("times: each call" in control.sentence for control in once.controls)


def test_what_is_declared_of_an_argument_holds_for_the_tensors_in_it() -> None:
    """As of EGNN's ``edges``, a list of two: its user knows it by the name in ``forward``."""

    class Graph(Linear):
        def forward(self, pos: Tensor, edges: list[Tensor]) -> Tensor:
            return self.force(pos) + 0 * pos[edges[0]].sum()

    network, pos, edges = Graph(), positions(5), [torch.tensor([0, 1]), torch.tensor([1, 2])]
    for declared in ({"edges": ep.fixed}, {"edges.1": ep.fixed}, {}):
        schema = ep.Schema({"pos": ep.point, **declared}, {"0": ep.vector})
        with ep.Probe(network, schema, PLAN, full=1, cost=None) as probe:
            network.eval()(pos, edges)
        assert probe.compute()["equiv/val/0/L_equiv"] == pytest.approx(expected(pos), rel=1e-9)


def test_a_name_that_no_input_has_is_refused_with_a_name_that_one_has() -> None:
    class Plain(Linear):
        def forward(self, pos: Tensor) -> Tensor:
            return self.force(pos)

    network = Plain().eval()
    probe = ep.Probe(network, ep.Schema({"coords": ep.point}, {"0": ep.vector}), full=1)
    with probe, pytest.raises(ep.EquivProbeError, match=r"\['coords'\].*\{'pos': ..."):
        network(positions(5))
