"""What the outputs of a network are called: by its fields, by its annotation, by the schema, and by their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep


class Fields(NamedTuple):
    energy: Tensor
    forces: Tensor


@dataclass
class Data:
    energy: Tensor
    forces: Tensor


class Plain(nn.Module):
    """Its energy is invariant, its forces are not equivariant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def both(self, pos: Tensor) -> tuple[Tensor, Tensor]:
        centred = pos - pos.mean(-2, keepdim=True)
        return centred.square().sum((-1, -2)), self.layer(centred)

    def forward(self, pos: Tensor) -> Any:
        return self.both(pos)


class Named(Plain):
    def forward(self, pos: Tensor) -> Fields:
        return Fields(*self.both(pos))


class OfData(Plain):
    def forward(self, pos: Tensor) -> Data:
        return Data(*self.both(pos))


class Noted(Plain):
    def forward(self, pos: Tensor) -> tuple[Annotated[Tensor, "energy"], Annotated[Tensor, "forces"]]:
        return self.both(pos)


class PromisesFields(Plain):
    """As scripted networks do, which lose the type on their way."""

    def forward(self, pos: Tensor) -> Fields:
        return tuple(self.both(pos))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [Named, OfData, Noted, PromisesFields])
def test_names_come_from_fields_and_annotations(kind: type[Plain]) -> None:
    net, pos = kind(), torch.randn(4, 5, 3)
    with ep.Probe(net) as probe:
        net(pos)
    assert set(probe.running) == {("train", "energy"), ("train", "forces")}
    values = probe.compute()
    assert values["equiv/train/energy/L_equiv"] < 1e-8 < values["equiv/train/forces/L_equiv"]
    with ep.Probe(net) as probe:
        probe.step(lambda: nn.functional.mse_loss(_forces(net(pos)), pos))
    assert probe.compute()["equiv/train/loss/L_equiv"] > 0, "and a step gets what it expects"


def _forces(output: Any) -> Tensor:
    return output.forces if hasattr(output, "forces") else output[1]


def test_places_are_said_to_be_outputs_in_report_and_messages() -> None:
    class Blind(Plain):
        def forward(self, pos: Tensor) -> Any:
            return self.both(pos)[1], torch.ones(len(pos))

    net, pos = Blind(), torch.randn(4, 5, 3)
    with ep.Probe(net) as probe:
        net(pos)
    report = probe.report()
    text = str(report)
    assert "train/output 0" in text
    assert "train/0" not in text
    assert report["train/0"].title == "train/output 0", "by its key, as in the schema and in loggers"
    assert "output 1: these outputs do not depend on the rotated inputs" in text


def test_the_schema_names_places() -> None:
    net, pos = Plain(), torch.randn(4, 5, 3)
    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})
    with ep.Probe(net, schema) as probe:
        net(pos)
    assert set(probe.running) == {("train", "energy"), ("train", "forces")}


def test_a_step_may_return_a_dataclass_of_losses() -> None:
    @dataclass
    class Losses:
        loss: Tensor
        forces: Tensor

    net, pos = Plain(), torch.randn(4, 5, 3)

    def step() -> Losses:
        loss = nn.functional.mse_loss(net(pos)[1], pos)
        return Losses(loss, 2 * loss)

    with ep.Probe(net) as probe:
        probe.step(step)
    values = probe.compute()
    assert values["equiv/train/forces/L_equiv"] == pytest.approx(2 * values["equiv/train/loss/L_equiv"])


class Attributes(dict):  # type: ignore[type-arg]
    """A dict whose entries are attributes too, and that raises what dicts raise where there is none."""

    __getattr__ = dict.__getitem__


def test_outputs_may_be_containers_whose_attributes_raise_anything() -> None:
    class Own(Plain):
        def forward(self, pos: Tensor) -> Any:
            return Attributes(zip(("energy", "forces"), self.both(pos), strict=True))

    net, pos = Own(), torch.randn(4, 5, 3)
    with ep.Probe(net) as probe:
        probe.step(lambda: nn.functional.mse_loss(net(pos).forces, pos))
    assert probe.compute()["equiv/train/loss/L_equiv"] > 0
