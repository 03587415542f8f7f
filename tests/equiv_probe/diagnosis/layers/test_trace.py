"""Bad input, what is left as it was, which representation is seen, and what a trace looks like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.diagnosis.layers.inference import fitted, layouts

from .networks import ATOMS, ENERGY, FORCES, egnn, molecule, painn, transformer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from equiv_probe.diagnosis.layers.layer import Layer


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Any) -> Any:
        return self.function(*given)


class Chain(nn.Module):
    """Steps one after the other, from positions about their centroid to forces."""

    def __init__(self, *steps: Callable[..., Any]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(one if isinstance(one, nn.Module) else Step(one) for one in steps)

    def forward(self, pos: Tensor) -> dict[str, Tensor]:
        x = pos - pos.mean(0)
        for step in self.steps:
            x = step(x)
        return {"forces": x}


def stretched(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 1.0, 1.3]).to(x)


def by_path(found: ep.Trace) -> dict[str, Layer]:
    return {one.label: one for one in found.layers}


def rotations() -> Tensor:
    return ep.RotationPlan("octahedral", 1).rotations()[0]


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_the_error_and_what_is_added_in_closed_form() -> None:
    """``A x`` after ``A x``: error of a layer ``‖A − tr(A)/3‖``, and what each adds, from the formulas.

    With ``A = 1 + B`` traceless B: of ``A² = 1 + 2B + B²`` the group average in the place of ``A x`` leaves ``B x``.
    """
    b = torch.diag(torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64))
    a = torch.eye(3, dtype=torch.float64) + b
    found = ep.trace(Chain(lambda x: x @ a, lambda x: x @ a), molecule(0), FORCES)

    def off(m: Tensor) -> float:
        """Squared Frobenius norm of the traceless part, which is of degree 2 here."""
        return float((m - m.trace() / 3 * torch.eye(3).to(m)).square().sum())

    first, second = (by_path(found)[f"steps.{k}"] for k in (0, 1))
    assert first.relative**2 == pytest.approx(off(a) / float(a.square().sum()), rel=0.2)
    left = off(a) / off(a @ a)  # the twirl of A x is x, and A x is what comes of it
    assert first.adds == pytest.approx(1 - left, abs=0.05)
    assert second.adds == pytest.approx(left, abs=0.05)
    assert first.adds + second.adds == pytest.approx(1.0, abs=1e-9)
    assert [one.path for one in found.culprits] == ["steps.0", "steps.1"]


def test_a_constant_vector_of_the_laboratory() -> None:
    """``x + b`` is off by |b| exactly: ``b² `` of variance over any rotations that average vectors to nothing."""
    b = torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64)
    found = ep.trace(Chain(lambda x: x + b), molecule(1), FORCES)
    variance = 24 / 23 * 0.25 / 3
    assert by_path(found)["steps.0"].outputs[0].error == pytest.approx(math.sqrt(variance), rel=1e-9)


# -- representations ---------------------------------------------------------------------------------------------------


def samples(carried: Callable[[Tensor], Tensor], rows: int = 9, columns: int = 11) -> Tensor:
    """An orbit by matrices ``(K, F, F)``, as ``(K, R, 1, F)``."""
    start = torch.randn(rows, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (start @ carried(rotations()).mT)[:, :, None]


@pytest.mark.parametrize("irreps", ["2x0e+3x1e", "4x0e+1x1e+1x2e", "1x1e+1x0e+1x3e", "3x1e", "1x2e"])
def test_layouts_of_irreps_are_recognised(irreps: str) -> None:
    pytest.importorskip("e3nn")
    rep = ep.irreps(irreps)
    found = layouts(samples(rep.matrix, columns=rep.event_shape[0]), rotations(), 1e-24)
    wanted = irreps.replace("e", "").replace("x", " × l=").replace("+", " + ")
    assert str(found[0]) == wanted


def test_harmonics_in_the_order_of_m_are_recognised() -> None:
    """y, z, x: what SchNetPack's SO3net and most chemists call −1, 0, 1."""
    order = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
    found = ep.trace(Chain(lambda x: x[:, [1, 2, 0]], lambda x: x[:, [2, 0, 1]]), molecule(0), FORCES)
    assert [one.broken for one in found.layers] == [False] * 3
    assert "y z x" in by_path(found)["steps.0"].outputs[0].label
    assert order.det() == 1


def hidden(seed: int) -> Callable[[Tensor], Tensor]:
    """Vectors and scalars in a basis that nobody knows."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(11, 11, generator=generator, dtype=torch.float64))[0]
    rep = ep.concat(2, (3, ep.vector))
    return lambda g: basis @ rep.matrix(g) @ basis.mT


def test_a_fitted_representation_explains_an_unknown_basis_and_no_noise() -> None:
    for seed in range(5):
        found = fitted(samples(hidden(seed)), rotations())
        assert found is not None
        assert found.enough
        assert found.part == pytest.approx(1.0, abs=1e-9)
        noise = torch.randn(24, 9, 1, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = fitted(noise, rotations())
        assert found is not None
        assert found.part < 0.2, "at the rotations that were fitted it would be more than a half"


def test_too_few_rows_are_no_evidence() -> None:
    wide = torch.randn(24, 1, 1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fitted(wide, rotations())
    assert found is not None
    assert not found.enough


def test_an_unknown_basis_is_not_accused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.basis = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))[0]
            self.there = Step(lambda x: torch.cat([x, 2 * x, x * x.norm(dim=-1, keepdim=True)], -1) @ self.basis)
            self.back = Step(lambda h: (h @ self.basis.mT)[:, 6:])

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            return {"forces": self.back(self.there(pos - pos.mean(0)))}

    found = ep.trace(Hidden(), molecule(0), FORCES)
    assert found.culprits == []
    assert "fitted" in by_path(found)["there"].outputs[0].label
    assert not by_path(found)["there"].broken


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_rotations_at_which_the_model_fails_are_left_out() -> None:
    limit = float(molecule(0)["pos"].sub(molecule(0)["pos"].mean(0))[0].norm()) * 0.6

    def fussy(x: Tensor) -> Tensor:
        if x[0, 2] > limit:
            raise RuntimeError("outside\nof the box")
        return x

    found = ep.trace(Chain(fussy, stretched), molecule(0), FORCES)
    assert [one.path for one in found.culprits] == ["steps.1"]
    assert "RuntimeError: outside of the box" in " ".join(found.notes)
    assert not found.protocol["rotations"].startswith("24 of")


def test_a_model_that_fails_nearly_always_is_an_error() -> None:
    calls = iter(range(10**6))

    def once(x: Tensor) -> Tensor:
        if next(calls) > 3:
            raise RuntimeError("no memory of that")
        return x

    with pytest.raises(ep.EquivProbeError, match="no memory of that"):
        ep.trace(Chain(once), molecule(0), FORCES)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_layers_that_are_not_finite_are_listed(value: float) -> None:
    spoilt = Step(lambda x: x * value)
    found = ep.trace(Chain(stretched, lambda x: (spoilt(x), x)[1]), molecule(0), FORCES)
    assert [one.path for one in found.culprits] == ["steps.0"]

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spoilt, self.stretch = spoilt, Step(stretched)

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            self.spoilt(pos)
            return {"forces": self.stretch(pos - pos.mean(0))}

    found = ep.trace(Beside(), molecule(0), FORCES)
    assert [one.path for one in found.culprits] == ["stretch"]
    assert by_path(found)["spoilt"].outputs[0].note == "it is not finite"
    assert "spoilt output: it is not finite" in str(found)


def test_called_twice_and_not_at_all() -> None:
    shared = Step(stretched)
    model = Chain(shared, lambda x: x[:, [1, 2, 0]], shared, lambda x: x[:, [2, 0, 1]])
    model.idle = nn.Sequential(nn.Linear(3, 3), nn.SiLU())
    found = ep.trace(model, molecule(0), FORCES)
    assert [one.label for one in found.layers][1:] == ["steps.0", "steps.1", "steps.0, call 2", "steps.3"]
    assert {one.label for one in found.culprits} == {"steps.0", "steps.0, call 2"}
    assert found.not_called == ["idle"]
    assert "Not called: idle" in str(found)


def test_whole_numbers() -> None:
    """An index that depends on the orientation is listed as such, and adds the error."""

    class Highest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = Step(lambda x: torch.tensor(len(x)))
            self.highest = Step(lambda x: x[:, 2].argmax())

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            self.count(pos)
            return {"energy": (pos - pos.mean(0))[self.highest(pos)].norm()}

    found = by_path(ep.trace(Highest(), molecule(0), ENERGY))
    assert found["highest"].outputs[0].how == "discrete"
    assert found["highest"].broken
    assert "int64, which change at" in found["highest"].outputs[0].label
    assert not found["count"].broken


def test_shapes_that_depend_on_the_orientation() -> None:
    def upper(x: Tensor) -> Tensor:
        return x[x[:, 2] > 0]

    class Upper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upper = Step(upper)

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            return {"energy": self.upper(pos - pos.mean(0)).norm(dim=-1).sum()}

    found = ep.trace(Upper(), molecule(0), ENERGY)
    assert "its shape changes with the orientation" in by_path(found)["upper"].outputs[0].note
    assert "its shape changes" in str(found)


def test_a_model_is_left_as_it_was() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.drop = nn.Linear(3, 3).double(), nn.Dropout(0.5)
            self.norm, self.calls = nn.BatchNorm1d(3).double(), 0

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            self.calls += 1
            return {"forces": self.drop(self.norm(self.mix(pos - pos.mean(0))))}

    model, seen = Stateful(), []
    model.mix.register_forward_hook(lambda module, given, output: seen.append(len(seen)) or 2 * output)
    model.mix.weight.grad = torch.ones(3, 3).double()
    hooks = {name: dict(part._forward_hooks) for name, part in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, given = torch.get_rng_state(), molecule(0)
    kept = given["pos"].clone()
    found = ep.trace(model, given, FORCES)
    assert found.broken
    assert len(seen) >= 24, "the hooks that were there are run"
    assert all(bool((before[name] == value).all()) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(given["pos"], kept)
    assert model.training
    assert model.calls == 0
    assert torch.equal(model.mix.weight.grad, torch.ones(3, 3).double())
    assert {name: dict(part._forward_hooks) for name, part in model.named_modules()} == hooks
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_hooks_are_gone_after_an_error() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("never")

    model = Chain(fails)
    with pytest.raises(ValueError, match="never"):
        ep.trace(model, molecule(0), FORCES)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.slow
def test_a_thousand_modules() -> None:
    """They are stored all, shown in part, and the budget is kept; one in the middle is found nevertheless."""
    steps = [nn.Sequential(*(nn.Identity() if k % 2 else Step(torch.clone) for k in range(9))) for _ in range(100)]
    steps[50][4] = Step(stretched)
    found = ep.trace(Chain(*steps), molecule(0), FORCES, budget=60)
    assert len(found.layers) == 1001
    assert [one.path for one in found.culprits] == ["steps.50.4"]
    assert len(str(found).splitlines()) < 120
    assert found.protocol["evaluations"] < 150
    assert "the budget was spent" in str(found)


def test_no_module_and_no_such_output() -> None:
    with pytest.raises(ep.EquivProbeError, match=r"nn\.Module"):
        ep.trace(lambda pos: {"forces": pos}, molecule(0), FORCES)  # type: ignore[arg-type]
    with pytest.raises(ep.EquivProbeError, match="output='stress'"):
        ep.trace(Chain(stretched), molecule(0), FORCES, output="stress")


# -- gradients inside of the model -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_forces_that_are_gradients_are_explained_by_the_energy() -> None:
    found = ep.trace(*painn(0, "representation.mixing.0.mu_channel_mix"))
    assert found.output == "energy"
    assert "of which forces are gradients" in " ".join(found.notes)


def test_without_an_energy_the_first_that_breaks_is_named() -> None:
    class Conservative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stretch = Step(stretched)
            self.energy = Step(lambda x: x.square().sum(-1).exp().sum())

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            pos = pos.requires_grad_(True)
            energy = self.energy(self.stretch(0.3 * (pos - pos.mean(0))))
            return {"forces": -torch.autograd.grad(energy, pos)[0]}

    found = ep.trace(Conservative(), molecule(0), FORCES)
    assert "which activation patching cannot follow" in " ".join(found.notes)
    assert [one.path for one in found.culprits] == ["stretch"]
    assert "stretch (Step) is the first to break: what goes in is equivariant" in " ".join(str(found).split())


# -- what it looks like ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_stored_read_and_shown(tmp_path: Path) -> None:
    found = ep.trace(*transformer(0, "blocks.1.attention.place"))
    found.save(tmp_path / "t.json")
    assert ep.load(tmp_path / "t.json") == found
    found.save(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[0].startswith("path,call,kind,depth,name,representation,how")
    text = str(found)
    assert "│  │  └─\u00a0place Linear".replace(" ", "\u00a0") in text or "└─ place Linear" in text.replace(
        "\u00a0", " "
    )
    assert max(len(line) for line in text.splitlines()) <= 120
    assert repr(found).startswith("<Trace of Transformer on one batch, a dict: blocks.1.attention.place (Linear) adds")
    pytest.importorskip("matplotlib", reason="pages are drawn with it")
    found.save(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    for part in ("Where is it broken?", "Where in the network?", "What each call adds", "└─"):
        assert part in page, part


@pytest.mark.slow
def test_the_same_is_said_again() -> None:
    first, second = (ep.trace(*egnn(1, "layers.1.message")) for _ in range(2))
    assert [one.label for one in first.culprits] == [one.label for one in second.culprits]
    assert [one.adds for one in first.layers] == pytest.approx([one.adds for one in second.layers], nan_ok=True)


@pytest.mark.slow
def test_no_budget_leaves_patching_out() -> None:
    found = ep.trace(*egnn(0, "layers.1.shift"), budget=0)
    assert found.protocol["evaluations"] <= 60
    assert [one.path for one in found.culprits] == ["layers.1.shift"], "the first that breaks"
    assert len(molecule(0)["pos"]) == ATOMS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_in_another_order_are_not_accused(dtype: torch.dtype) -> None:
    """Edges of some neighbour lists come in the order of the coordinates; sums over them do not mind."""

    class Edges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edges = Step(self.sorted)
            self.length, self.sum = Step(lambda away: away.norm(dim=-1)), Step(torch.sum)
            self.angle = Step(self.nearly_parallel)

        def nearly_parallel(self, away: Tensor) -> Tensor:
            length = away.norm(dim=-1)
            return torch.arccos((away / length[:, None]).square().sum(-1) * (1 - 6e-5 * length))

        def sorted(self, x: Tensor) -> tuple[Tensor, Tensor]:
            away = (x[:, None] - x[None]).flatten(0, 1)
            order = away[:, 2].argsort()
            return away[order], order

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            away = self.edges(pos)[0]
            away = away[away.square().sum(-1) > 0]
            return {"energy": self.sum(self.length(away)) + 1e-3 * self.angle(away).sum()}

    # The angle makes a thousand times more of rounding, which the order of its rows does not let be measured.
    found = ep.trace(Edges(), molecule(0, dtype), ENERGY)
    assert [one.label for one in found.layers if one.broken] == []
    layers = by_path(found)
    assert [one.label for one in layers["edges"].outputs] == [
        "vector, but for the order of rows",
        "int64, in another order at each orientation",
    ]
    assert layers["length"].outputs[0].label == "invariant, but for the order of rows"


@pytest.mark.parametrize(("back", "mixed"), [(0.55, True), (1.0, False)], ids=["undone by the next", "of one layer"])
def test_layers_that_break_symmetry_against_each_other_are_no_parts_of_the_error(back: float, mixed: bool) -> None:
    """A stretch by two, and then by 0.55: the second alone would break more than both do, a share below zero."""

    def along_x(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda x: x * torch.tensor([factor, 1.0, 1.0]).to(x)

    found = ep.trace(Chain(along_x(2.0), along_x(back)), molecule(0), FORCES)
    assert found.is_mixed is mixed
    (first,) = found.culprits
    assert first.label.startswith("steps.0")
    said = found.document().headline.answer
    assert ("some against others" in said) is mixed
    assert "steps.0" in said
    assert "-" not in said.partition("steps.0")[0], "no share below zero in the headline"


def test_a_channel_that_is_nothing_for_one_atom_is_read_off_the_others() -> None:
    """Of an activation as wide as a sample one row is not enough: there the channel could be anything."""

    class Wide(nn.Module):
        def forward(self, away: Tensor) -> Tensor:
            channels = away[:, None] * torch.linspace(0.5, 1.5, 700, dtype=away.dtype)[:, None]
            there = torch.ones(len(away), 700, 1, dtype=away.dtype)
            there[0, 350] = 0
            return (channels * there).flatten(1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = Wide()

        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            return {"forces": self.wide(pos - pos.mean(0)).unflatten(1, (700, 3)).sum(1)}

    found = ep.trace(Model(), {"pos": molecule(0)["pos"]}, FORCES, progress=False)
    wide = by_path(found)["wide"].outputs[0]
    assert wide.representation == "700 × l=1"
    assert not wide.broken
