"""A step's one number, split by structure: equal to their own losses, or refused; and unseen."""

from __future__ import annotations

import random
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import equiv_probe as ep

from ..live.test_no_waiting import NoReading
from ..live_models import Unseen
from ..timed_models import TIMED, Timed, drawn

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN = ep.RotationPlan("klein", 2)
BINS = [0.0, 0.5, 1.0]


def both(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square()


def inputs(dtype: torch.dtype = torch.float64, count: int = 12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions, times, labels and a mask that leaves at least one atom."""
    torch.manual_seed(0)
    x, t = drawn(count, 4, dtype)
    mask = (torch.rand(count, 4) < 0.6).to(dtype)
    mask[:, 0] = 1
    return x, t, torch.randn_like(x), mask


# Each a step's number and the losses of its structures, whose mean it is.
Losses = tuple["Callable[[Tensor], Tensor]", "Callable[[Tensor], Tensor]"]


def squared(dtype: torch.dtype = torch.float64) -> dict[str, Losses]:
    x, t, y, mask = inputs(dtype)
    w, held = 1 / (1.1 - t) ** 2, mask[..., None]

    def by_structure(elements: Tensor) -> Tensor:
        return elements.mean((1, 2))

    def denoised(v: Tensor) -> Tensor:  # x₁ = x_t + (1 − t) v, as flows and preconditioned networks have it
        return ((x + (1 - t)[:, None, None] * v - y) * held).square()

    return {
        "mean": (lambda v: functional.mse_loss(v, y), lambda v: by_structure(both(v, y))),
        "sum": (lambda v: functional.mse_loss(v, y, reduction="sum"), lambda v: len(v) * both(v, y).sum((1, 2))),
        "weights": (lambda v: (w * by_structure(both(v, y))).mean(), lambda v: w * by_structure(both(v, y))),
        "mask": (
            lambda v: (both(v, y) * held).sum() / held.sum(),
            lambda v: len(v) * (both(v, y) * held).sum((1, 2)) / held.sum(),
        ),
        "norms of atoms": (
            lambda v: torch.linalg.vector_norm(v - y, dim=-1).pow(2).mean(),
            lambda v: torch.linalg.vector_norm(v - y, dim=-1).pow(2).mean(1),
        ),
        "denoised": (lambda v: denoised(v).mean(), lambda v: by_structure(denoised(v))),
        "selected": (lambda v: both(v, y)[:, :2].mean(), lambda v: both(v, y)[:, :2].mean((1, 2))),
        # What does not depend on the network is borne by all structures alike.
        "beside a constant": (lambda v: both(v, y).mean() + 1, lambda v: by_structure(both(v, y)) + 1),
        "less a constant": (lambda v: both(v, y).mean() - 0.3, lambda v: by_structure(both(v, y)) - 0.3),
        "beside a prior": (
            lambda v: both(v, y).mean() + x.square().mean(),
            lambda v: by_structure(both(v, y)) + x.square().mean(),
        ),
        "weights beside a large constant": (
            lambda v: (w * by_structure(both(v, y))).mean() + 100,
            lambda v: w * by_structure(both(v, y)) + 100,
        ),
    }


def bins_of(step: Callable[[], Any], net: nn.Module, schema: ep.Schema = TIMED, **options: Any) -> dict[str, float]:
    probe = ep.Probe(net, schema, PLAN, every=1, full=1, cost=None, over="t", bins=BINS, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe.step(step)
    assert not probe.failures
    return {name: value for name, value in probe.compute().items() if "/t_" in name}


@pytest.mark.slow
@pytest.mark.parametrize("grad", ["train", "no_grad", "inference_mode"])
@pytest.mark.parametrize("case", squared())
def test_a_squared_error_is_parted_into_its_structures(case: str, grad: str) -> None:
    """In float64 to rounding, against what the step gives when it returns the structures' own losses."""
    mode = {"train": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}[grad]
    with mode():
        number, losses = squared()[case]
        x, t, _, _ = inputs()
        net = Timed().train(grad == "train")
        by_structure = bins_of(lambda: number(net(x, t)), net)
        own = bins_of(lambda: losses(net(x, t)), net)
    assert by_structure == pytest.approx(own, rel=1e-9)
    assert len(by_structure) == 2 * 8, "two bins, four numbers, each with its standard error"


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_in_lower_precision(dtype: torch.dtype, rel: float) -> None:
    """Labels are read off to rounding; in bfloat16 the losses that the step itself returns have three digits."""
    x, t, _, _ = inputs(dtype)
    net = Timed(dtype)
    for number, losses in (squared(dtype)["mean"], squared(dtype)["mask"]):
        by_structure, own = bins_of(lambda n=number: n(net(x, t)), net), bins_of(lambda n=losses: n(net(x, t)), net)
        values = {name: value for name, value in own.items() if "stderr" not in name}
        assert {name: by_structure[name] for name in values} == pytest.approx(values, rel=rel)


class ByIndex(Timed):
    def forward(self, x_t: Tensor, t: Tensor, batch: Tensor) -> Tensor:
        return super().forward(x_t, t[batch])


@pytest.mark.parametrize("reduction", ["nodes", "graphs"])
def test_a_batch_by_index(reduction: str) -> None:
    torch.manual_seed(0)
    batch = torch.arange(8).repeat_interleave(torch.arange(2, 10))
    x, t, net = torch.randn(len(batch), 3).double(), torch.rand(8).double(), ByIndex()
    y = torch.randn_like(x)

    def summed(v: Tensor) -> Tensor:
        return torch.zeros(8, dtype=v.dtype).index_add(0, batch, both(v, y).sum(1))

    if reduction == "nodes":
        number, losses = (lambda v: both(v, y).mean()), (lambda v: 8 * summed(v) / v.numel())
    else:
        number = lambda v: (summed(v) / batch.bincount()).mean()  # noqa: E731
        losses = lambda v: summed(v) / batch.bincount()  # noqa: E731
    by_structure, own = bins_of(lambda: number(net(x, t, batch)), net), bins_of(lambda: losses(net(x, t, batch)), net)
    assert by_structure == pytest.approx(own, rel=1e-9)


def test_losses_of_nodes_belong_to_their_structures() -> None:
    """A step over graphs may return a loss for each node: as if it had returned their mean."""
    torch.manual_seed(0)
    batch = torch.arange(8).repeat_interleave(torch.arange(2, 10))
    x, t, net = torch.randn(len(batch), 3).double(), torch.rand(8).double(), ByIndex()
    y = torch.randn_like(x)
    mean = bins_of(lambda: both(net(x, t, batch), y).mean(), net)
    assert bins_of(lambda: both(net(x, t, batch), y).mean(1), net) == pytest.approx(mean, rel=1e-9)
    wrong = bins_of(lambda: both(net(x, t, batch), y).mean(1).flip(0), net)
    assert wrong != pytest.approx(mean, rel=0.1), "negative control: losses of other nodes"


class Two(Timed):
    def forward(self, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
        v = super().forward(x_t, t)
        return {"energy": v[..., 0].square().sum(1), "forces": v}


def test_several_outputs_and_several_numbers() -> None:
    x, t, y, _ = inputs()
    net, schema = Two(), ep.Schema({"x_t": ep.vector}, {"energy": ep.scalar, "forces": ep.vector})

    def terms() -> tuple[Tensor, Tensor]:
        found = net(x, t)
        return (found["energy"] - 3).square(), both(found["forces"], y).mean((1, 2))

    def numbers() -> dict[str, Tensor]:
        energy, forces = (one.mean() for one in terms())
        return {"loss": energy + 10 * forces, "energy_loss": energy, "forces_loss": forces}

    def by_structure() -> dict[str, Tensor]:
        energy, forces = terms()
        return {"loss": energy + 10 * forces, "energy_loss": energy, "forces_loss": forces}

    assert bins_of(numbers, net, schema) == pytest.approx(bins_of(by_structure, net, schema), rel=1e-9)


class Conditioned(Timed):
    def forward(self, x_t: Tensor, t: Tensor, before: Tensor | None = None) -> Tensor:
        return super().forward(x_t if before is None else x_t + 0.3 * before, t)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return (1 + t)[:, None, None].bfloat16() * self.layer(x_t)


def test_self_conditioning() -> None:
    """The first call's output changes the second's; the loss is of the second alone."""
    x, t, y, _ = inputs()
    net, schema = Conditioned(), ep.Schema({"x_t": ep.vector, "before": ep.vector}, {"v": ep.vector})

    def losses() -> Tensor:
        with torch.no_grad():
            first = net(x, t)
        return both(net(x, t, first), y).mean((1, 2))

    assert bins_of(lambda: losses().mean(), net, schema) == pytest.approx(bins_of(losses, net, schema), rel=1e-9)


def test_a_mask_leaves_out_whole_structures() -> None:
    """What counts nowhere in the loss is in no bin."""
    x, t, y, _ = inputs()
    held = (torch.arange(12) % 3 > 0).double()[:, None, None]
    net = Timed()
    probe = ep.Probe(net, TIMED, every=1, over="t")
    probe.step(lambda: (both(net(x, t), y) * held).sum() / held.sum())
    found = probe.over_time()
    assert sum(one.structures for one in found.bins) == 8
    mean = sum(one.total * one.structures for one in found.bins if one.structures) / 8
    assert mean == pytest.approx(probe.compute()["equiv/train/loss/L_total"], rel=1e-9)


def unparted() -> dict[str, Callable[[Tensor], Tensor]]:
    _, _, y, _ = inputs()
    return {
        "absolute": lambda v: (v - y).abs().mean(),
        "Huber": lambda v: functional.huber_loss(v, y, delta=0.5),
        "norm": lambda v: torch.linalg.vector_norm(v - y, dim=-1).mean(),
        "root": lambda v: both(v, y).mean().sqrt(),
        "fourth power": lambda v: (v - y).pow(4).mean(),
        "less the batch's mean": lambda v: (v - y - (v - y).mean(0)).square().mean(),
        "pairs of structures": lambda v: (v - v.roll(1, 0)).square().mean(),
        "beside a linear term": lambda v: both(v, y)[:, :2].mean() + v[:, 2:].mean(),
        "a little of another": lambda v: both(v, y).mean() + 0.05 * (v - y).abs().mean(),
        "Cauchy beside a constant": lambda v: (v - y).square().log1p().mean() + 1,
        "no graph": lambda v: both(v, y).mean().detach(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", unparted())
def test_any_other_loss_is_refused_and_said(case: str) -> None:
    x, t, _, _ = inputs()
    number, net = unparted()[case], Timed()
    plain = ep.Probe(net, TIMED, PLAN, every=1)
    plain.step(lambda: number(net(x, t)))
    probe = ep.Probe(net, TIMED, PLAN, every=1, over="t", bins=BINS)
    with pytest.warns(UserWarning, match="Return the structures' own losses"):
        probe.step(lambda: number(net(x, t)))
    assert probe.compute() == plain.compute(), "the step's number is decomposed as ever, and nothing is in bins"
    assert any("cannot be split by structure" in note for note in probe.report().notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe.step(lambda: number(net(x, t)))  # said once


def test_without_the_check_a_coupled_loss_would_be_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the refusals: it is the check that refuses."""
    x, t, _, _ = inputs()
    net, other = Timed(), unparted()["a little of another"]
    monkeypatch.setattr("equiv_probe.probe.per_structure.agrees", lambda *_: torch.tensor(True))
    assert bins_of(lambda: other(net(x, t)), net)


class NearlyEquivariant(Timed):
    """Whose outputs at all rotations are so close that any smooth loss looks quadratic over them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.matrix.copy_(torch.eye(3) + 1e-5 * self.matrix)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_loss_that_is_quadratic_over_the_orbit_alone_is_refused(constant: float) -> None:
    """The form of a loss is looked at where no network is: a constant beside it excuses nothing."""
    x, t, y, _ = inputs()
    net = NearlyEquivariant()
    probe = ep.Probe(net, TIMED, PLAN, every=1, over="t", bins=BINS)
    with pytest.warns(UserWarning, match="cannot be split by structure"):
        probe.step(lambda: ((net(x, t) - y).square() + 1).log().mean() + constant)
    probe = ep.Probe(net, TIMED, PLAN, every=1, over="t", bins=BINS)
    probe.step(lambda: both(net(x, t), y).mean() + constant)
    assert len(probe.over_time().bins) == 2


def test_what_depends_on_no_output_is_said() -> None:
    x, t, y, _ = inputs()
    net = Timed()
    for constant, said in ((0.0, False), (0.5, True)):
        probe = ep.Probe(net, TIMED, PLAN, every=1, over="t", bins=BINS)
        probe.step(lambda c=constant: both(net(x, t), y).mean() + c)
        assert (
            any("0.5 of" in note and "does not depend on the network" in note for note in probe.report().notes) == said
        )


def test_a_loss_that_is_no_squared_error_by_returned_losses() -> None:
    """Norms: the step's own value is decomposed as its mean, and the bins add up to it."""
    x, t, y, _ = inputs()
    net = Timed()

    def losses() -> Tensor:
        return torch.linalg.vector_norm(net(x, t) - y, dim=-1).mean(1)

    probe = ep.Probe(net, TIMED, PLAN, every=1, over="t", bins=BINS)
    returned = probe.step(losses)
    assert returned.requires_grad
    assert torch.equal(returned, losses()), "what the step returned comes back as it is"
    plain = ep.Probe(net, TIMED, PLAN, every=1)
    plain.step(lambda: losses().mean())
    for name, value in plain.compute().items():
        assert probe.compute()[name] == pytest.approx(value, rel=1e-12, nan_ok=True)
    bins = probe.over_time().bins
    for key in ("total", "mean", "equiv"):
        mean = sum(getattr(one, key) * one.structures for one in bins) / len(x)
        assert mean == pytest.approx(plain.compute()[f"equiv/train/loss/L_{key}"], rel=1e-9)


def test_losses_beside_a_number_count_only_if_asked() -> None:
    x, t, y, _ = inputs()
    net = Timed()

    def step() -> dict[str, Tensor]:
        losses = (net(x, t) - y).abs().mean((1, 2))
        return {"loss": losses.mean(), "losses": losses, "sizes": losses.detach()}

    plain, probe = ep.Probe(net, TIMED, PLAN, every=1), ep.Probe(net, TIMED, PLAN, every=1, over="t", bins=BINS)
    plain.step(step)
    assert set(plain.running) == {("train", "loss")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the step does what the warning would advise
        probe.step(step)
    assert not probe.report().notes
    assert set(probe.running) == {("train", "loss"), ("train", "losses")}
    assert len(probe.over_time(name="losses").bins) == 2
    with pytest.raises(ep.EquivProbeError, match="nothing in bins for train/loss; expected train/losses"):
        probe.over_time(name="loss")


def trained(over: str | None) -> list[Any]:
    """Weights, random states, and what hooks on tensors and modules saw, after steps that go backward."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    net, shift = Timed(), nn.Linear(1, 1, dtype=torch.float64)
    seen = Unseen()
    note = seen.note
    net.register_full_backward_hook(lambda *_: note("network"))
    shift.register_full_backward_hook(lambda *_: note("shift"))
    net.matrix.register_hook(lambda g: note(float(g.norm())))
    optimizer = torch.optim.Adam([*net.parameters(), *shift.parameters()], 0.01)
    probe = ep.Probe(net, TIMED, every=2, over=over, bins=BINS if over else None, protect=(shift,))

    def step() -> Tensor:
        x, t = drawn(8)
        output = shift(net(x, t)[..., None])[..., 0]
        output.register_hook(lambda g: note(float(g.norm())))
        return (output - np.random.rand() * x).square().mean() * random.random()  # noqa: NPY002

    for _ in range(6):
        loss = probe.step(step) if over is not None else step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert over is None or sum(one.structures for one in probe.over_time().bins) == 3 * 8
    return [
        *net.parameters(),
        *shift.parameters(),
        torch.get_rng_state(),
        seen.noted,
        random.random(),
        np.random.rand(),  # noqa: NPY002
    ]


def alike(some: list[Any], others: list[Any]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_training_leaves_no_trace() -> None:
    assert alike(trained("t"), trained(None)), "to the last bit"


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_a_trace_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the user's hooks on modules left on for the backward passes of the measurement."""
    monkeypatch.setattr("equiv_probe.probe.per_structure._without_backward_hooks", lambda _: nullcontext())
    assert not alike(trained("t"), trained(None))


def test_inference_mode_and_the_users_own_tensors() -> None:
    """Batches made in inference mode cannot be saved for backward: clones are, and the user's stay what they are."""
    with torch.inference_mode():
        x, t, y, mask = inputs()
        before = [one.clone() for one in (x, t, y, mask)]
        net = Timed().eval()
        held = mask[..., None] * t[:, None, None]
        found = bins_of(lambda: functional.mse_loss(net(x, t) * held, y * held), net)
        assert len(found) == 16
        assert all(torch.equal(a, b) for a, b in zip(before, (x, t, y, mask), strict=True))
        assert x.is_inference()


def test_an_evaluation_step_that_does_not_think_of_gradients() -> None:
    """It hands predictions to NumPy and writes into them; a step that fails with gradients is refused, no more."""
    x, t, y, _ = inputs()
    net, kept = Timed().eval(), np.zeros(3)

    def step() -> Tensor:
        output = net(x, t)
        kept[:] = output.numpy().mean((0, 1))
        kept[:] += np.asarray(output).mean((0, 1))
        output -= y
        return output.square().mean()

    def fails() -> Tensor:
        if torch.is_grad_enabled():
            raise KeyError("gradients")
        return step()

    with torch.no_grad():
        own = bins_of(lambda: both(net(x, t), y).mean((1, 2)), net)
        assert bins_of(step, net) == pytest.approx(own, rel=1e-9)
        probe = ep.Probe(net, TIMED, PLAN, full=1, cost=None, over="t")
        with pytest.warns(UserWarning, match="could not be run with gradients .KeyError"):
            probe.step(fails)
    assert probe.compute()["equiv/val/loss/L_equiv"] > 0


def test_under_autocast() -> None:
    """The network works in bfloat16, the loss is of float32: read off to the two digits of the former."""
    torch.manual_seed(0)
    net, (x, t, y, _) = Layer(), inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x, t).dtype == torch.bfloat16
        by_structure = bins_of(lambda: functional.mse_loss(net(x, t).float(), y), net)
        own = bins_of(lambda: (net(x, t).float() - y).square().mean((1, 2)), net)
    assert by_structure == pytest.approx(own, rel=0.02)


@pytest.mark.parametrize("case", ["mean", "mask", "absolute", "returned", "hooks"])
def test_nothing_waits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("probe.player", "live.kept_numbers"):
        monkeypatch.setattr(f"equiv_probe.{where}.at_hand", lambda value: False)
    x, t, y, _ = inputs()
    net = Timed()
    losses = lambda v: (v - y).abs().mean((1, 2))  # noqa: E731
    number = {**{n: pair[0] for n, pair in squared().items()}, **unparted(), "returned": losses}.get(case)
    with warnings.catch_warnings(), ep.Probe(net, TIMED, every=1, over="t", bins=BINS) as probe:
        warnings.simplefilter("ignore")  # that the absolute error cannot be split by structure

        def run() -> None:
            net(x, t) if number is None else probe.step(lambda: number(net(x, t)))

        run()  # the first measurement looks at the times, and whether the loss was split by structure
        with NoReading():
            run()
    assert not probe.failures
    name = "v" if number is None else "loss"
    counted = probe.running["train", name].binned.everything[:, 12]
    assert counted.tolist() == ([0, 0, 0, 0] if case == "absolute" else [0, *(2 * torch.histc(t, 2, 0, 1)).tolist(), 0])
