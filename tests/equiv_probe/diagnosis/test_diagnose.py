"""The search, bad input, what is left as it was, and what a diagnosis looks like."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.diagnosis.diagnose import hints
from equiv_probe.diagnosis.experiment import NotApplicable, experiment
from equiv_probe.diagnosis.experiments import EXPERIMENTS
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.subject import Subject

from .planted_defects import DEFECTS, Field, molecule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from equiv_probe.diagnosis.diagnosis import Diagnosis

SCHEMA = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})


def batch() -> dict[str, Tensor]:
    return {"pos": molecule(0)}


def shuffled_axes(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"forces": (inputs["pos"] - inputs["pos"].mean(0))[:, [1, 2, 0]]}


def outside(x: Tensor) -> bool:
    """Whether the first atom is rotated into a cap of the sphere, a seventh of it, far from where it began."""
    first = molecule(0)[0]
    across = torch.linalg.cross(first, torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64))
    return bool(x[0] @ across > 0.7 * first.norm() * across.norm())


def states(found: Diagnosis) -> dict[str, str]:
    return {one.experiment: one.state for one in found.attempts}


def explains(name: str, part: float, cost: int) -> Any:
    @experiment(name, "group", "?", cost=cost)
    def run(subject: Subject) -> Iterator[Finding]:
        yield Finding(name, "forces", "so it is", "mend it", "cause", 1.0, 1 - part, part)

    return run


def test_the_search_goes_by_cost_and_stops_where_the_error_is_explained() -> None:
    some = [explains("third", 1.0, 30), explains("first", 0.5, 0), explains("second", 0.95, 20)]
    found = ep.diagnose(shuffled_axes, batch(), SCHEMA, experiments=some)
    assert [(one.experiment, one.state) for one in found.attempts] == [
        ("first", "partly"), ("second", "explains"), ("third", "not tried")
    ]  # fmt: skip
    assert found.verdict == "second"
    assert found.attempts[2].why == "the error is explained already"
    whole = ep.diagnose(shuffled_axes, batch(), SCHEMA, experiments=some, everything=True)
    assert [one.state for one in whole.attempts] == ["partly", "explains", "explains"]


def test_a_budget_is_kept() -> None:
    found = ep.diagnose(DEFECTS["z_is_special"].make(0, True)[0], *DEFECTS["z_is_special"].make(0, True)[1:], budget=36)
    assert found.protocol["evaluations"] <= 36
    assert any("more than what is left of 36" in one.why for one in found.attempts)
    assert states(found)["order of axes"] != "not tried", "what costs nothing is tried"


def test_an_experiment_that_raises_says_why_and_the_others_go_on() -> None:
    @experiment("breaks", "group", "?", cost=0)
    def breaks(subject: Subject) -> Iterator[Finding]:
        yield Finding("breaks", "forces", "half", "", "cause", 1.0, 0.7, 0.5)
        raise ValueError("a model\nraises anything")

    @experiment("says no", "group", "?", cost=0)
    def says_no(subject: Subject) -> Iterator[Finding]:
        raise NotApplicable("there is no cell")
        yield

    found = ep.diagnose(shuffled_axes, batch(), SCHEMA, experiments=[breaks, says_no, *EXPERIMENTS])
    by_name = {one.experiment: one for one in found.attempts}
    assert (by_name["breaks"].state, by_name["breaks"].why) == ("failed", "ValueError: a model raises anything")
    assert (by_name["says no"].state, by_name["says no"].why) == ("not applicable", "there is no cell")
    assert found.verdict == "order of axes"
    text = " ".join(str(found).split())
    assert "Could not be run: breaks (ValueError: a model raises anything)" in text
    assert "says no (there is no cell)" in text


def test_rotations_at_which_the_model_fails_are_left_out() -> None:
    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if outside(inputs["pos"]):
            raise RuntimeError("outside of the box")
        return shuffled_axes(inputs)

    found = ep.diagnose(model, batch(), SCHEMA)
    assert found.verdict == "order of axes"
    assert 6 <= found.protocol["rotations"] < 24
    assert "outside of the box" in " ".join(found.notes)


def test_rotations_that_are_left_for_later_are_the_same() -> None:
    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if outside(inputs["pos"]):
            raise RuntimeError("outside of the box")
        return shuffled_axes(inputs)

    whole, begun = Subject(model, batch(), SCHEMA), Subject(model, batch(), SCHEMA, first=6)
    assert begun.broken == ["forces"]
    assert len(begun.rotations) <= 6 < len(whole.rotations) < 24
    begun.evaluate_all()
    assert torch.equal(begun.rotations, whole.rotations)
    torch.testing.assert_close(begun.values["forces"], whole.values["forces"], rtol=1e-12, atol=1e-12)
    assert begun.error("forces") == pytest.approx(whole.error("forces"), rel=1e-12)
    assert len(begun.refused) == len(whole.refused)
    before = begun.evaluations
    begun.evaluate_all()
    assert begun.evaluations == before, "once is enough"


def test_a_model_that_fails_nearly_always_is_an_error() -> None:
    calls = iter(range(10**6))

    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if next(calls) > 0:
            raise RuntimeError("no memory of that")
        return shuffled_axes(inputs)

    with pytest.raises(ep.EquivProbeError, match="no memory of that"):
        ep.diagnose(model, batch(), SCHEMA)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite(value: float) -> None:
    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = shuffled_axes(inputs)["forces"]
        spoilt = value if outside(inputs["pos"]) else 0.0
        return {"forces": found + spoilt, "energy": torch.full((), value).double()}

    schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector, "energy": ep.scalar})
    found = ep.diagnose(model, batch(), schema)
    assert found.verdict == "order of axes"
    assert [one.name for one in found.outputs] == ["forces"], "an output that never is finite is left out"
    assert "'energy' was not finite at 24 rotations" in " ".join(found.notes)
    with pytest.raises(ep.EquivProbeError, match="not finite"):
        ep.diagnose(lambda x: {"forces": x["pos"] * value}, batch(), SCHEMA)


def test_whole_numbers_and_empty_outputs() -> None:
    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        own = inputs["pos"] - inputs["pos"].mean(0)
        return {"forces": own, "count": (own.norm(dim=-1) > 1).sum(), "none": own[:0, 0]}

    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector, "count": ep.scalar, "none": ep.scalar})
    found = ep.diagnose(model, batch(), schema)
    assert found.verdict == "nothing"
    assert {one.name for one in found.outputs} == {"forces", "count"}


def test_a_model_is_left_as_it_was() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.drop, self.norm = Field(0), nn.Dropout(0.5), nn.BatchNorm1d(3).double()
            self.calls = 0

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            self.calls += 1
            inputs["pos"].requires_grad_(True)
            return {"forces": self.drop(self.norm(self.field.energy_and_forces(inputs["pos"])[1]))}

    model, given = Stateful(), batch()
    model.field.coefficients.grad = torch.ones(3).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, pos = torch.get_rng_state(), given["pos"].clone()
    ep.diagnose(model, given, SCHEMA, everything=True)
    assert all(bool((before[name] == value).all()) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(given["pos"], pos)
    assert not given["pos"].requires_grad
    assert model.training
    assert model.drop.training
    assert model.calls == 0
    assert torch.equal(model.field.coefficients.grad, torch.ones(3).double())
    assert not any(part._forward_hooks for part in model.modules())


def test_hooks_of_others_and_a_thousand_modules() -> None:
    """A hook that somebody else registered takes part, as in use, and stays; modules may go uncalled."""
    model, given, known = DEFECTS["bias_on_vectors"].make(0, False)
    model.idle = nn.ModuleList(nn.Linear(1, 1) for _ in range(1000))
    bias = torch.tensor([0.1, 0.3, -0.2], dtype=torch.float64)
    handle = model.register_forward_hook(lambda _, __, output: {"forces": output["forces"] + bias})
    assert ep.diagnose(model, given, known).verdict == "constant laboratory vector"
    assert list(model._forward_hooks) == [handle.id]
    handle.remove()
    assert ep.diagnose(model, given, known).verdict == "nothing"


def test_the_same_is_said_again() -> None:
    first, second = (ep.diagnose(*DEFECTS["activation_on_components"].make(1, True)) for _ in range(2))
    assert first.attempts == second.attempts
    assert [one.sentence for one in first.findings] == [one.sentence for one in second.findings]
    parts = [[one.part for one in found.findings] for found in (first, second)]
    assert parts[0] == pytest.approx(parts[1], rel=1e-9, abs=1e-12, nan_ok=True)  # sums may begin elsewhere in memory


def test_it_is_stored_read_and_shown(tmp_path: Path) -> None:
    found = ep.diagnose(shuffled_axes, batch(), SCHEMA)
    found.save(tmp_path / "d.json")
    assert ep.load(tmp_path / "d.json") == found
    stored = json.loads((tmp_path / "d.json").read_text())
    assert stored["kind"] == "diagnosis"
    found.save(tmp_path / "d.csv")
    assert (tmp_path / "d.csv").read_text().splitlines()[0] == "experiment,group,question,state,why,evaluations"
    text = " ".join(str(found).split())
    for part in ("Order of axes: 'forces' rotates as it should", "(y, z, x)", "Try, for order of axes", "100 %"):
        assert part in text, part
    assert "Not tried:" in text
    pytest.importorskip("matplotlib", reason="pages are drawn with it")
    ax = found.plot_left()
    parts = [one.part for one in found.findings if one.output == "forces"]
    assert len(ax.patches) == len(parts) > 3
    assert min(bar.get_width() for bar in ax.patches) == pytest.approx(100 * (1 - max(parts)), abs=1e-6)
    found.save(tmp_path / "d.html")
    page = (tmp_path / "d.html").read_text()
    for part in ("Why is it broken?", "What to try?", "What says so?", "How large is it?", "What else was tried?"):
        assert part in page, part
    assert repr(found).startswith("<Diagnosis of shuffled_axes on one batch, a dict: Order of axes:")


def test_nothing_broken_is_said_so() -> None:
    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"forces": inputs["pos"] - inputs["pos"].mean(0)}

    found = ep.diagnose(model, batch(), SCHEMA)
    assert found.verdict == "nothing"
    assert "Nothing is broken that these experiments look for, beyond rounding in float64." in str(found)
    assert "rotation is respected: there is no error to explain" in " ".join(str(found).split())


def test_where_a_cause_is_known_there_is_no_advice_for_kinds_of_error() -> None:
    for name, words in (("cap_on_equal_neighbours", "max_num_neighbors"), ("axes_of_a_symmetric_top", "local frames")):
        found = ep.diagnose(*DEFECTS[name].make(0, True), everything=True)
        told = " ".join(str(found).split())
        assert words in told
        is_cause = found.decisive[0].kind == "cause"
        assert ("Try, for ties" in told) is not is_cause, "ties say what kind of error it is"


def test_two_outputs_with_two_causes() -> None:
    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        own = inputs["pos"] - inputs["pos"].mean(0)
        return {"forces": own[:, [1, 2, 0]], "velocities": own + torch.tensor([0.0, 0.3, 1.0])}

    schema = ep.Schema({"pos": ep.point}, {"forces": ep.vector, "velocities": ep.vector})
    found = ep.diagnose(model, batch(), schema)
    assert set(found.verdict.split(" + ")) == {"order of axes", "constant laboratory vector"}


def test_hints_are_the_cheap_part() -> None:
    calls = []

    def model(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(1)
        return shuffled_axes(inputs)

    assert hints(model, batch(), SCHEMA)[0].startswith("order of axes: 'forces' rotates")
    assert len(calls) <= 32
    assert hints(model, batch(), SCHEMA, outputs=["energy"]) == []


def test_every_experiment_has_a_name_of_its_own() -> None:
    names = [one.name for one in EXPERIMENTS]
    assert len(set(names)) == len(names)
    said = {name for defect in DEFECTS.values() for name in defect.said}
    # The device's is found where there is a GPU.
    assert set(names) - said == {"device"}, "each experiment has a planted defect that it must find"


@pytest.mark.gpu
def test_low_precision_products_on_a_gpu() -> None:
    """TF32 products mix channels of vectors: exact on the CPU, and in float64."""
    torch.manual_seed(0)
    mix = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)).cuda()

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = mix

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            own = inputs["pos"] - inputs["pos"].mean(0)
            return {"forces": self.mix(own.T).T}

    given = {"pos": torch.randn(64, 3, generator=torch.Generator().manual_seed(1)).cuda()}
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert ep.diagnose(Mixed(), given, SCHEMA).verdict in {"device", "low precision"}
        torch.backends.cuda.matmul.allow_tf32 = False
        assert "device" not in ep.diagnose(Mixed(), given, SCHEMA).verdict
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
