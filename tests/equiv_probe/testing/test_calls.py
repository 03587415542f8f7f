"""The conformance suite for live calls passes a right adapter and catches wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.adapters import Adapter
from equiv_probe.schema.centers import centroids
from equiv_probe.schema.structures import Structures
from equiv_probe.testing import CallCase, Field, check_calls

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Flock:
    """A framework's batch: positions of all structures in a row, and their sizes on the host."""

    places: Tensor
    sizes: list[int]


class FlockAdapter(Adapter):
    """The right one."""

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        flock = args[0]

        def rebuild(values: dict[str, Any]) -> Any:
            return (Flock(values["places"], values["sizes"]),), {}

        return {"places": flock.places, "sizes": flock.sizes}, rebuild

    def stack(self, inputs: dict[str, Any], rotated: Mapping[str, Tensor]) -> Any:
        places = rotated["places"]
        count = len(places)

        def part(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.reshape(count, -1, *value.shape[1:]) for name, value in outputs.items()}

        return {"places": places.flatten(0, 1), "sizes": inputs["sizes"] * count}, part

    def structures(self, inputs: dict[str, Any], schema: ep.Schema, center: Any) -> Structures:
        sizes = inputs["sizes"]
        index = torch.repeat_interleave(torch.tensor(sizes))
        return Structures(
            "index", len(sizes), index=index, center=centroids(inputs["places"].double(), index, len(sizes))
        )


class InPlace(FlockAdapter):
    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        leaves, _ = super().split(args, kwargs)

        def rebuild(values: dict[str, Any]) -> Any:
            args[0].places, args[0].sizes = values["places"], values["sizes"]
            return args, kwargs

        return leaves, rebuild


class Shuffled(FlockAdapter):
    def stack(self, inputs: dict[str, Any], rotated: Mapping[str, Tensor]) -> Any:
        stacked, part = super().stack(inputs, rotated)
        return stacked, lambda outputs: {name: value.flip(0) for name, value in part(outputs).items()}


class WrongOwner(FlockAdapter):
    def structures(self, inputs: dict[str, Any], schema: ep.Schema, center: Any) -> Structures:
        found = super().structures(inputs, schema, center)
        assert found.index is not None
        return Structures("index", found.count, index=found.count - 1 - found.index, center=found.center)


class Alone(FlockAdapter):
    def stack(self, inputs: dict[str, Any], rotated: Mapping[str, Tensor]) -> Any:
        return None


class Rounding(FlockAdapter):
    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        leaves, rebuild = super().split(args, kwargs)
        return leaves, lambda values: rebuild({**values, "places": values["places"].float().double()})


class FlockCase:
    schema = ep.Schema({"places": ep.point}, {"energy": ep.scalar, "forces": ep.vector})

    def positions(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(n, 3, generator=generator, dtype=torch.float64) + 3 * n for n in (3, 5, 2)]

    def call(self) -> Any:
        positions = self.positions()
        return (Flock(torch.cat(positions), [len(one) for one in positions]),), {}

    def module(self, field: Field) -> nn.Module:
        class Network(nn.Module):
            def forward(self, flock: Flock) -> dict[str, Tensor]:
                each = [field(one) for one in flock.places.split(flock.sizes)]
                return {
                    "energy": torch.stack([one["energy"] for one in each]),
                    "forces": torch.cat([one["forces"] for one in each]),
                }

        return Network()


def use(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> CallCase:
    reader = lambda module, args, kwargs: adapter if args and isinstance(args[0], Flock) else None  # noqa: E731
    monkeypatch.setattr("equiv_probe.live.adapter_choice._readers", lambda: [reader])
    return FlockCase()


def test_a_right_adapter_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    check_calls(use(FlockAdapter(), monkeypatch))


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (InPlace(), "of the user's call untouched"),
        (Shuffled(), "copies together and one by one"),
        (WrongOwner(), "each structure by its own rotation"),
        (Alone(), "copies share a call"),
        (Rounding(), "of a call that was rebuilt"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FlockAdapter) else "",
)
def test_a_wrong_adapter_is_caught(wrong: FlockAdapter, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match=check):
        check_calls(use(wrong, monkeypatch))


def test_an_adapter_that_is_not_registered_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    case = use(FlockAdapter(), monkeypatch)
    monkeypatch.setattr("equiv_probe.live.adapter_choice._readers", list)
    with pytest.raises(AssertionError, match="recognised"):
        check_calls(case)
