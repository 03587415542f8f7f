"""Strings stand for representations and plans wherever these are taken, and a slip of the pen is met with help."""

from __future__ import annotations

import pydoc

import pytest
import torch

import equiv_probe as ep
from equiv_probe.representations.registry import CONSTANTS, MAKERS
from equiv_probe.representations.spelling import representation
from equiv_probe.rotations.resolve import rotation_plan

ALL = [
    ep.scalar, ep.pseudoscalar, ep.vector, ep.axial, ep.point, ep.fixed, ep.orientation, ep.quaternion,
    ep.tensor(3, pseudo=True), ep.voigt("xx yy zz xy yz xz"), ep.irreps("1x0e+2x1o"), ep.frame("quaternion"),
    ep.concat(ep.point, (2, ep.vector), 3), ep.grid((5, ep.scalar), ep.vector, spacing=0.5, axes="zyx"),
]  # fmt: skip


@pytest.mark.parametrize("rep", ALL, ids=str)
def test_what_a_representation_prints_as_names_it(rep: object) -> None:
    assert representation(str(rep)) == rep
    assert representation(f"ep.{rep}") == rep


@pytest.mark.parametrize(
    ("given", "meant"),
    [("vektor", "vector"), ("points", "point"), ("scaler", "scalar"), ("voight", "voigt"), ("ep.tensr(2)", "tensor")],
)
def test_a_slip_of_the_pen_names_what_was_meant(given: str, meant: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=f"did you mean '{meant}'"):
        ep.Schema({"pos": given}, {"forces": "vector"})  # type: ignore[dict-item]


@pytest.mark.parametrize("given", ["__import__('os')", "vector(3)", "3", 3, None, "tensor('x', 'y', 'z')", ""])
def test_nothing_else_is_taken_or_evaluated(given: object) -> None:
    with pytest.raises(ep.EquivProbeError):
        representation(given)


def test_a_schema_of_strings_measures_as_one_of_objects() -> None:
    inputs = {"pos": torch.randn(5, 3, dtype=torch.float64)}
    words = ep.Schema({"pos": "point"}, {"forces": "vector"})  # type: ignore[dict-item]
    assert words == ep.Schema({"pos": ep.point}, {"forces": ep.vector})
    scale = torch.tensor([2.0, 1.0, 1.0])
    model = lambda v: {"forces": v["pos"] * scale}  # noqa: E731
    objects, plan = ep.Schema({"pos": ep.point}, {"forces": ep.vector}), ep.RotationPlan("icosahedral")
    found = [ep.decompose(ep.twirl(model, inputs, *how)).equiv for how in ((words, "icosahedral"), (objects, plan))]
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("name", [*CONSTANTS, *MAKERS])
def test_help_says_what_each_representation_is(name: str) -> None:
    thing = getattr(ep, name)
    text = pydoc.render_doc(thing)
    assert thing.__doc__.splitlines()[0] in text
    if name in CONSTANTS:
        assert thing.__doc__ != type(thing).__doc__


def test_help_on_a_vector_is_about_vectors() -> None:
    assert "arrow" in pydoc.render_doc(ep.vector)
    assert "place" in pydoc.render_doc(ep.point)


class Nothing(torch.nn.Module):
    def forward(self, pos: torch.Tensor) -> torch.Tensor:
        return pos - pos.mean(-2, keepdim=True)


PLAIN = ep.Schema({"pos": ep.point}, {"0": ep.vector})


@pytest.mark.parametrize(
    "take",
    [
        lambda plan: ep.Probe(Nothing(), plan=plan).plan,
        lambda plan: ep.Twirled(Nothing(), PLAIN, plan).plan,
        lambda plan: ep.augment(Nothing(), PLAIN, plan=plan).plan,
        lambda plan: ep.RandomRotation(PLAIN, plan).plan,
        lambda plan: ep.twirl(lambda v: v, torch.randn(4, 3), ep.Schema({"0": ep.point}, {"0": ep.point}), plan).plan,
        lambda plan: ep.EquivariancePenalty(Nothing(), PLAIN, plan=plan).plan,
        rotation_plan,
    ],
    ids=["Probe", "Twirled", "augment", "RandomRotation", "twirl", "EquivariancePenalty", "rotation_plan"],
)
def test_a_plan_may_be_named_wherever_it_is_taken(take: object) -> None:
    wanted = ep.RotationPlan("haar", replicates=4, seed=2)
    assert take({"design": "haar", "replicates": 4, "seed": 2}) == wanted  # type: ignore[operator]
    assert take("haar") == ep.RotationPlan("haar")  # type: ignore[operator]
    with pytest.raises(ep.EquivProbeError, match="did you mean 'icosahedral'"):
        take("icosaedral")  # type: ignore[operator]
    with pytest.raises(ep.EquivProbeError, match="replikates"):
        take({"design": "klein", "replikates": 2})  # type: ignore[operator]
