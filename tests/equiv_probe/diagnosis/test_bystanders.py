"""What looks like a cause, beside another defect that is the cause: it is tried and not accused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep

from .planted_defects import energy, molecule, of_energy, of_forces

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.diagnosis.diagnosis import Diagnosis


def special(x: Tensor) -> Tensor:
    own = x - x.mean(0)
    return 0.2 * (own[:, 2].square().sum() + own[:, 2].pow(4).sum())


def state(found: Diagnosis, name: str) -> str:
    return next(one.state for one in found.attempts if one.experiment == name)


def _distances(x: Tensor) -> Tensor:
    return (x[:, None] - x).square().sum(-1)


BYSTANDERS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "sine of distances": ("units of angle", lambda x: torch.sin(3 * _distances(x)).sum()),
    "sine of a small coordinate": ("units of angle", lambda x: torch.sin(0.1 * (x - x.mean(0))[:, 2].square()).sum()),
    "rounded distances": ("quantisation", lambda x: (_distances(x).detach() * 8).round().sum() / 64),
    "distances in float8": ("quantisation", lambda x: _distances(x).to(torch.float8_e5m2).to(x.dtype).sum()),
}


@pytest.mark.parametrize("kind", BYSTANDERS)
@pytest.mark.parametrize("seed", range(3))
def test_sines_and_rounding_of_invariants_are_tried_and_not_accused(kind: str, seed: int) -> None:
    name, bystander = BYSTANDERS[kind]
    case = of_energy(seed, lambda field, x: energy(field, x) + special(x) + 0.3 * bystander(x))
    found = ep.diagnose(*case, everything=True)
    assert "a special axis" in found.verdict
    assert state(found, name) == "excluded", str(found)


class Scalars(nn.Module):
    """Int8 weights between invariants, and an energy with a special axis."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        weights = torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weights = nn.Parameter((weights / weights.abs().max() * 127).round() * weights.abs().max() / 127)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["pos"]
        powers = torch.linspace(0.5, 1.5, 32, dtype=torch.float64)
        return {"energy": (self.weights * (_distances(x).sum() / 100) ** powers).sum() + special(x)}


@pytest.mark.parametrize("seed", range(3))
def test_quantised_weights_between_invariants_are_not_accused(seed: int) -> None:
    schema = ep.Schema({"pos": ep.point}, {"energy": ep.scalar})
    found = ep.diagnose(Scalars(seed), {"pos": molecule(seed)}, schema, everything=True)
    assert "a special axis" in found.verdict
    assert state(found, "quantisation") == "excluded"


@pytest.mark.filterwarnings("ignore")  # torch moves its quantised layers to another package
def test_layers_that_quantise_their_input_by_its_largest_component() -> None:
    """torch's dynamic quantisation of a layer that mixes channels of vectors; with scalar channels nothing is said."""
    quantization = pytest.importorskip("torch.ao.quantization", reason="torch quantises elsewhere")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 6, bias=False))
    quantised = quantization.quantize_dynamic(plain, {nn.Linear})

    class Mixed(nn.Module):
        def __init__(self, layers: nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            order = batch["charges"].argsort()
            own = (batch["pos"] - batch["pos"].mean(0))[order]
            return {"velocities": self.layers(own.mT).mT[order.argsort()]}

    given = {"pos": molecule(0, torch.float32), "charges": torch.arange(6.0)}
    schema = ep.Schema({"pos": ep.point, "charges": ep.scalar}, {"velocities": ep.vector})
    found = ep.diagnose(Mixed(quantised), given, schema)
    assert found.verdict == "quantisation"
    assert found.causes[0].part == pytest.approx(1, abs=1e-4)
    assert ep.diagnose(Mixed(plain), given, schema).verdict == "nothing"


def test_without_fused_kernels_or_rounding_the_experiments_say_so() -> None:
    case = of_forces(
        0, lambda field, x: (x - x.mean(0)) * torch.tensor([1.0, 1.0, 2.0]).double() + 0 * energy(field, x)
    )
    found = ep.diagnose(*case, everything=True)
    why = {one.experiment: one.why for one in found.attempts}
    assert why["fused kernels"] == "plain operations give the same numbers"
    assert why["quantisation"] == "nothing in it is rounded to a few bits"
    assert why["units of angle"] == "no sine, cosine or tangent is seen in it"


@pytest.mark.filterwarnings("ignore")  # that it has no kernels here
def test_cuequivariance_without_its_kernels_is_said_so() -> None:
    cue = pytest.importorskip("cuequivariance", reason="cuEquivariance is not installed")
    layers = pytest.importorskip("cuequivariance_torch", reason="cuEquivariance is not installed for torch")

    class Scaled(nn.Module):
        """A vector channel that cuEquivariance's linear layer scales, and a planted stretch."""

        def __init__(self) -> None:
            super().__init__()
            kind = cue.Irreps("O3", "1x1o")
            self.scale = layers.Linear(kind, kind, layout=cue.mul_ir, internal_weights=True, dtype=torch.float64)

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            own = batch["pos"] - batch["pos"].mean(0)
            return {"forces": self.scale(own) * torch.tensor([1.0, 1.0, 1.3]).double()}

    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector})
    found = ep.diagnose(Scaled(), {"pos": molecule(0)}, schema, everything=True)
    why = {one.experiment: one.why for one in found.attempts}["fused kernels"]
    assert found.verdict == "components changed"
    assert "cuEquivariance runs without fused kernels here" in why or torch.cuda.is_available()
