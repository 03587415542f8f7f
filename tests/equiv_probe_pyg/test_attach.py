"""Labels from the graphs, and the probe's own entry points on PyG's calls."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

import equiv_probe as ep
from equiv_probe_pyg import attach

from .graph_models import Everything, GraphTransformer, batch_of

PLAN = ep.RotationPlan("icosahedral", 2, seed=3)
FULL: dict[str, Any] = {"full": 1, "budget": None, "plan": PLAN}


class Linear(nn.Module):
    """``f_i = A (x_i - x̄)``, whose twirl is ``tr(A) / 3 (x_i - x̄)``, per graph."""

    def __init__(self, kind: str = "dict") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.kind, self.matrix = kind, nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    def forward(self, data: Any) -> Any:
        forces = centred(data) @ self.matrix.T
        energy = torch.zeros(data.num_graphs, dtype=torch.float64).index_add(0, data.batch, forces[:, 0])
        if self.kind == "dict":
            return {"energy": energy, "forces": forces}
        return forces if self.kind == "tensor" else (energy, forces)


def centred(data: Any) -> Tensor:
    means = [data.pos[data.batch == b].mean(0) for b in range(data.num_graphs)]
    return data.pos - torch.stack(means)[data.batch]


def closed_form(model: Linear, data: Any) -> tuple[float, float]:
    """``L_mean`` and ``L_equiv`` of the squared error of the forces, mean over components."""
    x, matrix = centred(data), model.matrix.detach()
    twirl = matrix.trace() / 3 * x
    # E_g |g' A g x|² = |A|²_F / 3 |x|², so the variance about the twirl is that less |twirl|².
    second = matrix.square().sum() / 3 * x.square().sum()
    mean = (twirl - data.force).square().mean()
    return float(mean), float((second - twirl.square().sum()) / x.numel())


@pytest.mark.parametrize("kind", ["dict", "tensor", "tuple"])
def test_the_loss_against_labels_in_the_graphs_is_the_closed_form(kind: str) -> None:
    batch, model = batch_of(), Linear(kind).eval()
    outputs = {
        "dict": {"energy": ep.scalar, "forces": ep.vector},
        "tensor": {"forces": ep.vector},
        "tuple": ["energy", "forces"],
    }[kind]
    targets: Any = "force" if kind == "tensor" else {"forces": "force"}
    with attach(model, outputs, targets, **FULL) as probe:
        model(batch)
    found, (mean, equiv) = probe.compute(), closed_form(model, batch)
    # The icosahedral design averages what is quadratic in the rotation exactly.
    assert found["equiv/val/forces/L_mean"] == pytest.approx(mean, rel=1e-9)
    assert found["equiv/val/forces/L_equiv"] == pytest.approx(equiv, rel=1e-9)
    assert found["equiv/val/forces/share"] == pytest.approx(equiv / (mean + equiv), rel=1e-9)
    identity = float((model.matrix.detach() @ centred(batch).T - batch.force.T).square().mean())
    assert identity != pytest.approx(mean, rel=0.01), "negative control: the unrotated model's loss is another"


def test_labels_are_found_and_announced(caplog: pytest.LogCaptureFixture) -> None:
    batch, model = batch_of(), Linear().eval()
    batch.forces = batch.force
    with attach(model, **FULL) as probe:
        model(batch)
        model(batch)
    assert caplog.text.count('targets={"forces": "forces"}') == 1
    caplog.clear()
    found = probe.compute()
    assert found["equiv/val/forces/L_mean"] == pytest.approx(closed_form(model, batch)[0], rel=1e-9)
    assert found["equiv/val/energy/L_equiv"] > 0
    assert "equiv/val/energy/L_total" not in found or not found["equiv/val/energy/L_total"] > 0, "no label"

    class Energy(Linear):
        def forward(self, data: Any) -> Tensor:
            return super().forward(data)["energy"][:, None]

    with attach(Energy(), every=1) as probe:
        probe.model(batch_of())
    assert 'targets={"0": "y"}' in caplog.text
    caplog.clear()
    assert probe.compute()["equiv/train/0/L_total"] > 0
    with attach(Energy(), targets={}, every=1) as probe:
        probe.model(batch_of())
    assert "targets=" not in caplog.text


def test_labels_of_any_shape_confuse_nothing() -> None:
    batch, model = batch_of(), Linear("tensor").eval()
    batch.y = torch.randn(4, 3, dtype=torch.float64)  # not an input, not an arrow
    with attach(model, targets={}, **FULL) as probe:
        model(batch)
    assert probe.schema is not None
    assert probe.schema.inputs["y"] == ep.fixed
    batch.mystery = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(ep.EquivProbeError, match="mystery"), attach(model, **FULL):
        model(batch)
    declared = ep.Schema({"mystery": ep.fixed}, {})
    with attach(model, schema=declared, **FULL) as probe:
        model(batch)
    assert not probe.failures


def test_the_cadence_is_that_of_a_probe() -> None:
    assert attach(Linear()).schedules.cadences == ep.Probe(Linear()).schedules.cadences
    assert (
        attach(Linear(), every=7, cost=0.2).schedules.cadences
        == ep.Probe(Linear(), every=7, cost=0.2).schedules.cadences
    )
    with pytest.warns(DeprecationWarning, match="now called cost"):
        assert attach(Linear(), budget=0.2).schedules.cadences.cost == 0.2


def test_a_missing_label_says_so() -> None:
    with (
        pytest.raises(ep.EquivProbeError, match="came with the call"),
        attach(Linear(), None, {"forces": "f"}, every=1) as p,
    ):
        p.model(batch_of())
    with pytest.raises(ep.EquivProbeError, match="label of each output"), attach(Linear(), None, "force", every=1) as p:
        p.model(batch_of())
    with pytest.raises(ep.EquivProbeError, match="stress"), attach(Linear(), ["stress"], every=1) as p:
        p.model(batch_of())


def test_the_probe_reads_batches_by_itself_and_replays_steps() -> None:
    batch, model = batch_of(), Linear("tensor").eval()
    with ep.Probe(model, **FULL) as probe:
        model(batch)
        probe.step(lambda: (model(batch) - batch.force).square().mean())
    found, (mean, equiv) = probe.compute(), closed_form(model, batch)
    assert found["equiv/val/0/L_equiv"] == pytest.approx(equiv, rel=1e-9)
    assert found["equiv/val/loss/L_equiv"] == pytest.approx(equiv, rel=1e-9)
    assert found["equiv/val/loss/L_mean"] == pytest.approx(mean, rel=1e-9)


class Writing(Linear):
    """Writes into its batch, as models do: features, gradients, moved positions, and an output."""

    def forward(self, data: Any) -> Any:
        data.pos = data.pos - data.pos.mean(0)
        data.features = data.pos @ self.matrix
        data.pos.requires_grad_()
        return super().forward(data)


def test_a_model_that_writes_into_its_batch() -> None:
    batch, model = batch_of(), Writing("tensor").eval()
    mean, equiv = closed_form(model, batch)
    alone = batch_of()
    model(alone)
    with ep.Probe(model, **FULL) as probe:
        found = probe.replay(lambda: (model(batch) - batch.force + 0 * batch.features.sum()).square().mean(), PLAN)
        assert torch.equal(batch.features, alone.features)
        assert set(batch.keys()) == set(alone.keys())
        model(batch_of())
    assert found.mean == pytest.approx(mean, rel=1e-9)
    assert probe.compute()["equiv/val/0/L_equiv"] == pytest.approx(equiv, rel=1e-9)
    fresh = batch_of()
    ep.Twirled(model)(fresh)
    assert "features" not in fresh, "the twirl's copies are its own"


def test_augmentation_rotates_each_graph_and_nothing_of_the_users() -> None:
    batch, model = batch_of(), Linear("dict")
    before = {key: value.clone() for key, value in batch.to_dict().items() if isinstance(value, Tensor)}
    with ep.augment(model) as handle:
        output = model(batch)
        g = handle.rotations
        assert g is not None
        assert g.shape == (4, 3, 3)
        own = torch.einsum("nba,bc,ncd,nd->na", g[batch.batch], model.matrix.detach(), g[batch.batch], centred(batch))
        torch.testing.assert_close(output["forces"].detach(), own)
    for key, value in before.items():
        assert torch.equal(batch[key], value), key


def test_a_twirled_model_is_the_closed_form() -> None:
    batch, model = batch_of(), Linear("dict")
    output = ep.Twirled(model)(batch)
    torch.testing.assert_close(output["forces"], model.matrix.trace() / 3 * centred(batch))
    assert not torch.allclose(output["forces"], model(batch)["forces"])


def test_measuring_together_and_one_by_one_is_the_same() -> None:
    values = []
    for stack in (None, True, False):
        model = Everything().eval()
        with ep.Probe(model, stacked=stack, **FULL) as probe:
            model(batch_of())
        assert not probe.failures
        values.append({n: r.everything.equiv.value for (_, n), r in probe.running.items()})
    assert set(values[0]) == {"energy", "forces", "edge_flow", "stress"}
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-9)


def test_a_graph_that_comes_back_with_nothing_new_is_refused() -> None:
    class Passing(nn.Module):
        def forward(self, data: Any) -> Any:
            return data

    message = "a DataBatch that came back, with nothing new"
    with pytest.raises(ep.EquivProbeError, match=message), ep.Probe(Passing(), every=1) as probe:
        probe.model(batch_of())


@pytest.mark.slow
def test_importing_the_plugin_imports_no_framework() -> None:
    code = "import sys, equiv_probe, equiv_probe_pyg, equiv_probe_pyg.plugin as p, torch\n"
    code += "assert p.plugin.adapter(torch.nn.Linear(3, 3), (torch.ones(3),), {}) is None\n"
    code += "assert 'torch_geometric' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_single_graphs() -> None:
    torch.manual_seed(0)
    model = GraphTransformer().double().eval()
    one = batch_of().get_example(1)
    with ep.Probe(model, **FULL) as probe:
        model(one)
    with ep.Probe(model, **FULL) as batched:
        model(Batch.from_data_list([one]))
    found, expected = probe.compute(), batched.compute()
    assert found["equiv/val/forces/L_equiv"] == pytest.approx(expected["equiv/val/forces/L_equiv"], rel=1e-9)
