"""Noise and end points of a sampler in layouts other than ``(B, N, 3)``: rotated rightly, or refused in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import equiv_probe as ep

from .samplers import quiet

if TYPE_CHECKING:
    from collections.abc import Callable

DOUBLE = {"dtype": torch.float64}
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()


def one_by_one(x: Tensor) -> Tensor:
    return torch.stack([one + torch.randn(x.shape[1:], **DOUBLE) for one in x])


def held(x: Tensor) -> Tensor:
    """Noise for the atoms that are there alone, as ``x[mask]`` has them."""
    x = x.clone()
    x[MASK] += torch.randn(int(MASK.sum()), 3, **DOUBLE)
    return x


FLAT: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "all atoms in a row": (lambda x: x + torch.randn(x.shape[0] * x.shape[1], 3, **DOUBLE).view(x.shape), {}),
    "like a view": (lambda x: (x.view(-1, 3) + torch.randn_like(x.view(-1, 3))).view(x.shape), {}),
    "the atoms that are there": (held, {"mask": MASK}),
}


@pytest.mark.parametrize("how", FLAT)
def test_flat_noise_of_a_dense_batch_rotates_with_its_samples(how: str) -> None:
    sampler, options = FLAT[how]
    audit = quiet(sampler, (5, 4, 3), **options)
    assert audit.verdict == "round-off"
    assert [draw["turned"] for draw in audit.draws] == [True]


@pytest.mark.parametrize("how", FLAT)
def test_flat_noise_that_does_not_rotate_would_be_caught(how: str) -> None:
    """Negative control: the same draws, said to have no direction."""
    sampler, options = FLAT[how]
    audit = quiet(sampler, (5, 4, 3), rotates=lambda draw: False, **options)
    assert audit.verdict == "broken"
    assert audit.rms > 1


def by_molecule(x: Tensor) -> Tensor:
    return torch.cat([one + torch.randn(3, 3, **DOUBLE) for one in x.split(3)])


@pytest.mark.parametrize(
    ("sampler", "shape", "batch"),
    [(one_by_one, (5, 5, 3), None), (by_molecule, (9, 3), torch.arange(3).repeat_interleave(3))],
)
def test_as_many_samples_as_atoms(
    sampler: Callable[[Tensor], Tensor], shape: tuple[int, ...], batch: Tensor | None
) -> None:
    """A draw (5, 3) may be five samples' or five atoms': an equivariant sampler is not called broken on a guess."""
    with pytest.raises(ep.EquivProbeError, match="does not say to which sample"):
        quiet(sampler, shape, batch=batch)
    assert quiet(sampler, shape, batch=batch, per_sample=False).verdict == "round-off"


@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 12), (60,)])
def test_noise_in_another_order_of_axes_is_refused(shape: tuple[int, ...]) -> None:
    """It cannot be rotated as it is drawn; left as it is, every sampler that draws so would look broken."""

    def sampler(x: Tensor) -> Tensor:
        drawn = torch.randn(shape, **DOUBLE)
        return x + (drawn.mT if len(shape) == 3 else drawn.view(x.shape))

    with pytest.raises(ep.EquivProbeError, match="laid out otherwise"):
        quiet(sampler, (5, 4, 3))
    assert quiet(sampler, (5, 4, 3), rotates=lambda draw: False).verdict == "broken"


def shrink(x: Tensor, along_z: float = 1.0) -> Tensor:
    """Equivariant if ``along_z`` is one."""
    return 0.9 * x / (1 + x.square().sum(-1, keepdim=True)) * torch.tensor([1.0, 1.0, along_z], **DOUBLE)


UNUSUAL: dict[str, tuple[str, tuple[int, ...], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "xyz xyz": ("B (N 3)", (5, 12), lambda y: y.view(5, 4, 3), lambda x: x.flatten(1)),
    "xx yy zz": ("B (3 N)", (5, 12), lambda y: y.view(5, 3, 4).mT, lambda x: x.mT.flatten(1)),
    "channels first": ("B 3 N", (5, 3, 4), lambda y: y.mT, lambda x: x.mT),
    "three atoms": ("B 3 N", (5, 3, 3), lambda y: y.mT, lambda x: x.mT),
    "one molecule": ("(N 3)", (12,), lambda y: y.view(4, 3), lambda x: x.flatten()),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", UNUSUAL)
@pytest.mark.parametrize("source", [False, True])
def test_declared_layouts(how: str, source: bool) -> None:
    """Noise, draws, the points of a path and end points; a squeeze along z is seen, and so is another layout."""
    layout, shape, usual, back = UNUSUAL[how]

    def steps(y: Tensor, draw: Callable[..., Tensor], along_z: float) -> list[Tensor]:
        path = [y]
        for _ in range(3):
            path.append(back(shrink(usual(path[-1]), along_z)) + 0.3 * draw(y.shape))
        return path

    def sampler(along_z: float, *, path: bool = False) -> Callable[..., Any]:
        if source:
            return lambda y, randn: steps(y, randn, along_z)[slice(None) if path else -1]
        return lambda y: steps(y, lambda of: torch.randn(of, **DOUBLE), along_z)[slice(None) if path else -1]

    audit = quiet(sampler(1.0), shape, layout=layout)
    assert audit.verdict == "round-off"
    assert all(draw["turned"] for draw in audit.draws)
    assert quiet(sampler(0.5), shape, layout=layout).verdict == "broken"
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), **DOUBLE)
    assert quiet(sampler(1.0), noise, layout=layout).verdict == "round-off"
    assert quiet(sampler(1.0), lambda: torch.randn(shape, **DOUBLE), layout=layout).verdict == "round-off"
    path = quiet(sampler(1.0, path=True), shape, layout=layout, path=True)
    assert path.verdict == "round-off"
    assert len(path["end points"].along_path) == 4
    if how in {"xyz xyz", "xx yy zz"}:
        other = "B (3 N)" if how == "xyz xyz" else "B (N 3)"
        assert quiet(sampler(1.0), shape, layout=other).verdict == "broken", "negative control"


def test_the_numbers_are_those_of_the_usual_layout(matrix: Tensor) -> None:
    noise = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    usual = quiet(lambda x: x @ matrix.mT, noise)
    flat = quiet(lambda y: (y.view(5, 4, 3) @ matrix.mT).flatten(1), noise.flatten(1), layout="B (N 3)")
    first = quiet(lambda y: matrix @ y, noise.mT.contiguous(), layout="B 3 N")
    assert abs(flat.rms - usual.rms) < 1e-14
    assert abs(first.rms - usual.rms) < 1e-14


def test_flat_draws_of_a_solver_inside() -> None:
    """torchsde's states are flat, the sampler around it has atoms: the draws are declared, noise is as usual."""

    def solver(x: Tensor) -> Tensor:
        y = x.flatten(1)
        for k in range(3):
            own = torch.Generator().manual_seed(k)  # as a Brownian path does
            y = shrink(y.view(x.shape)).flatten(1) + 0.3 * torch.randn(y.shape, generator=own, **DOUBLE)
        return y.view(x.shape)

    with pytest.raises(ep.EquivProbeError, match=r'layout="B \(N 3\)"'):
        quiet(solver, (5, 4, 3))
    assert quiet(solver, (5, 4, 3), layout="B (N 3)").verdict == "round-off"
    assert quiet(solver, (5, 4, 3), layout="B (3 N)").verdict == "broken"


@pytest.mark.parametrize(
    ("shape", "way_out"),
    [
        ((5, 12), r'layout="B \(N 3\)"'),
        ((12,), r'layout="B \(N 3\)"'),
        ((5, 3, 4), 'layout="B 3 N"'),
        ((5, 7), "64, 20, 3"),
    ],
)
def test_flat_noise_without_its_layout_says_what_to_pass(shape: tuple[int, ...], way_out: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=way_out):
        quiet(lambda y: y, shape)


def test_layouts_that_are_none() -> None:
    with pytest.raises(ep.EquivProbeError, match="one of"):
        quiet(lambda y: y, (5, 12), layout="B N 4")
    with pytest.raises(ep.EquivProbeError, match="flat axis"):
        quiet(lambda y: y, (5, 13), layout="B (N 3)")
    with pytest.raises(ep.EquivProbeError, match="layout declared"):
        quiet(lambda x: x.flatten(1), (5, 4, 3))


def test_outputs_of_a_flat_sampler_by_name() -> None:
    """Places and velocities are flat, energies are not; a scalar of 12 features for each sample stays one."""

    def sampler(y: Tensor) -> dict[str, Tensor]:
        x = y.view(5, 4, 3)
        return {"x": y, "v": shrink(x).flatten(1), "e": x.square().sum((1, 2)), "h": y.square()}

    outputs = {"x": ep.point, "v": ep.vector, "e": ep.scalar, "h": ep.scalar}
    audit = quiet(sampler, (5, 12), layout="B (N 3)", outputs=outputs)
    assert {one.name: one.verdict for one in audit.measured} == {
        "x": "round-off",
        "v": "round-off",
        "e": "round-off",
        "h": "broken",
    }


def test_the_first_of_a_tuple() -> None:
    """Positions beside types and orders that nobody declared."""

    def sampler(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 2 * x, x[..., 0], torch.zeros(len(x), 4, dtype=torch.long)

    assert [one.name for one in quiet(sampler, (5, 4, 3), outputs=ep.point).measured] == ["end points"]
    audit = quiet(sampler, (5, 4, 3), outputs={"x": ep.point, "h": ep.scalar})
    assert {one.name: one.verdict for one in audit.measured} == {"x": "round-off", "h": "broken"}
    path = quiet(lambda x: [sampler(x), sampler(3 * x)], (5, 4, 3), outputs=ep.point, path=True)
    assert len(path["end points"].along_path) == 2


class Molecules:
    """A batch of a framework."""


@pytest.mark.parametrize(
    ("sampler", "options", "way_out"),
    [
        (lambda x: torch.stack([x] * 5), {}, "path=True"),
        (lambda x: torch.stack([x] * 2), {}, "path=True"),
        (lambda x: Molecules(), {}, r"sampler\(noise\)\.pos"),
        (list, {}, r"torch\.cat"),
        (lambda x: {"x_end": x, "h": x}, {"outputs": ep.point}, r'outputs=\{"x_end": ep\.point\}'),
        (lambda x: {"x_end": x, "h": x}, {"outputs": {"pos": ep.point}}, "pos"),
    ],
)
def test_answers_that_cannot_be_read_say_what_to_pass(sampler: Any, options: dict[str, Any], way_out: str) -> None:
    """Also a path of as many points as there are samples, which could be taken for a batch."""
    with pytest.raises(ep.EquivProbeError, match=way_out):
        quiet(sampler, (5, 4, 3), **options)


def test_positions_drawn_together_with_features_are_noted() -> None:
    """Which of seven numbers are directions nobody can see; what rotates beside other features is no matter."""
    audit = quiet(lambda x: x + torch.randn(5, 4, 7, **DOUBLE)[..., :3], (5, 4, 3))
    assert any("(5, 4, 7) did not rotate" in note for note in audit.notes)
    apart = quiet(lambda x: x + torch.randn_like(x) * torch.randn(5, 4, 7, **DOUBLE)[..., :1], (5, 4, 3))
    assert apart.verdict == "round-off"
    assert not apart.notes
