"""The instrument's conformance suite on SchNetPack's batches, and random rotation of a training model's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import schnetpack as spk
import torch
from torch import Tensor

import equiv_probe as ep
from equiv_probe.testing import Field, check_calls
from equiv_probe_schnetpack.training import training

from .spk_models import batch, copied, crystals, make_task, potential, structures
from .test_training import rotated_back

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

LABELS = ("energy", "forces", "stress", "dipole_moment", "considered_atoms")


class Joined(spk.model.AtomisticModel):
    """A field, evaluated structure by structure; it writes into its batch, as SchNetPack's models do."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.model_outputs = ["energy", "forces"]
        self.distances = spk.atomistic.PairwiseDistances()
        self.collect_derivatives()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = self.distances(inputs)
        each = [self.field(one) for one in inputs["_positions"].split(inputs["_n_atoms"].tolist())]
        inputs["energy"] = torch.stack([one["energy"] for one in each])
        inputs["forces"] = torch.cat([one["forces"] for one in each])
        return self.extract_outputs(inputs)


@dataclass
class Case:
    atoms: list[Atoms]
    schema: ep.Schema | None
    keyword: bool

    def module(self, field: Field) -> Joined:
        return Joined(field)

    def call(self) -> Any:
        given = {name: value for name, value in batch(self.atoms).items() if name not in LABELS}
        return ((), {"inputs": given}) if self.keyword else ((given,), {})

    def positions(self) -> Sequence[Tensor]:
        return [torch.tensor(one.positions) for one in self.atoms]


SCHEMA = ep.Schema(
    {"_positions": ep.point, "_cell": ep.vector, "_offsets": ep.vector}, {"energy": ep.scalar, "forces": ep.vector}
)


@pytest.mark.slow
@pytest.mark.parametrize("schema", [SCHEMA, None], ids=["declared", "inferred"])
@pytest.mark.parametrize("atoms", [structures(), [*crystals(), structures()[1]]], ids=["molecules", "crystals"])
@pytest.mark.parametrize("keyword", [False, True])
def test_adapter_conforms(atoms: list[Atoms], schema: ep.Schema | None, keyword: bool) -> None:
    check_calls(Case(atoms, schema, keyword))


@pytest.mark.parametrize("kind", ["unconstrained", "painn"])
def test_an_augmented_model_answers_as_for_rotated_data(kind: str) -> None:
    task, given = make_task(potential(kind)), batch()
    found = training(task)
    plain = task.predict_without_postprocessing(copied(given))
    with ep.augment(task.model, found.schema) as augmentation:
        output = task.predict_without_postprocessing(copied(given))
        loss = task.training_step(copied(given), 0)
        rotations = augmentation.rotations
    assert augmentation.rotations is not None
    expected = rotated_back(task, given, rotations)
    targets = {name: given[name] for name in ("energy", "forces")}
    assert float(loss.detach()) == pytest.approx(float(task.loss_fn(expected, targets)), rel=1e-12)
    same = torch.allclose(output["forces"], plain["forces"], rtol=1e-8, atol=1e-8)
    assert same == (kind == "painn")
