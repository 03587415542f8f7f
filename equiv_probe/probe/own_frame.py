"""Whether a step moves its structures into a frame of their own before it calls the network.

Hooks see what the network is given. A step that aligns structures with their principal axes, or with a frame of three
atoms, gives it the same however its batch is rotated: no rotation ever reaches the network, whose symmetry error is
that of the network alone, and not of the map that alignment and network make together. Such a step is found by running
it with its batch rotated, and with its batch displaced as far, up to its first call of the network.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equiv_probe.estimation.controls import OWN_FRAME, Control
from equiv_probe.live.capture import wide
from equiv_probe.live.hook import rotations_of_calls
from equiv_probe.probe.agreement import alone
from equiv_probe.probe.own_loss import loss_of
from equiv_probe.representations.grids import Grid
from equiv_probe.rotations.haar import haar
from equiv_probe.schema.usual_names import is_predicted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from equiv_probe.probe.recorded import RecordedStep

SAME = 0.02
"""Of the change that a displacement makes: an input that a rotation changes by less does not rotate with its batch."""
SURELY = 0.1
"""Change of an input, relative to its size, from which it surely rotates."""
STAYS = 1e-3
"""Relative change of a loss that is rounding, amplified by the decomposition that finds a frame."""


class _Called(BaseException):
    """Ends a run at its first call of the network; nobody's ``except Exception`` takes it for an error."""


def own_frame(run: RecordedStep) -> Control | None:
    """What a rotated batch does to the network's inputs; None where no coordinates are found in the batch.

    Args:
        run: a recorded step whose schema is settled. It is run again, without a trace; waits for the device.
    """
    schema, given = run.live.known_schema, run.calls[0].call.inputs
    asked = [name for name in schema.inputs if not (name in schema.outputs or is_predicted(name))]  # labels lie beside
    rotating = [name for name in asked if schema.inputs[name].event_shape and _is_coordinates(given.get(name))]
    names = [name for name in rotating if given[name].any()]  # a cell of a molecule is zero
    has_grids = any(isinstance(rep, Grid) for rep in schema.inputs.values())
    batch = [] if has_grids else [one for one in run.batch_memory.tensors if _is_coordinates(one)]
    if not (names and batch):
        return None
    try:
        return _control(run, batch, names)
    except Exception as error:  # as of a step that wants its cell to lie in one way
        return Control(OWN_FRAME, None, f"the step could not be run with its batch rotated ({error})")


def _control(run: RecordedStep, batch: list[Tensor], names: list[str]) -> Control | None:
    rotated, further = ([_rotated(one, g) for one in batch] for g in haar(2, torch.Generator().manual_seed(3)))
    augmented = rotations_of_calls(run.module, run.live.network)  # which rest while the step is run again
    asked = _asked(run, batch, batch) if augmented else run.calls[0].call.inputs
    found = _asked(run, batch, rotated)
    surely = (_change(asked[name], found[name], flipped=True) > SURELY * _size(asked[name]) for name in names)
    if alone() and all(surely):
        return Control(OWN_FRAME, True, "the network's inputs rotate with the step's batch")
    others = found, _asked(run, batch, further)
    displaced = _asked(run, batch, _displaced(batch, rotated))

    def stays(name: str, *, flipped: bool) -> bool:
        limit = SAME * _change(asked[name], displaced[name], flipped=flipped)
        return all(_change(asked[name], one[name], flipped=flipped) < limit for one in others)

    if not any(_change(asked[name], displaced[name]) for name in names):
        return None  # they come from elsewhere
    still = [name for name in names if stays(name, flipped=True)]
    if not still:
        return Control(OWN_FRAME, True, "the network's inputs rotate with the step's batch")
    axes = "" if all(stays(name, flipped=False) for name in still) else ", up to the signs of axes, which jump"
    moved = [name for name in names if name not in still]
    return Control(OWN_FRAME, False, _sentence(run, still, axes, moved, _loss_changes(run, batch, rotated)))


def _sentence(run: RecordedStep, still: list[str], axes: str, moved: list[str], loss: float | None) -> str:
    name, stay = type(run.live.network).__name__, "stay" if len(still) > 1 else "stays"
    others = f"; not so {', '.join(moved)}" if moved else ""
    if loss is None:
        whole = "whatever becomes of the loss"
    else:
        whole = "and the step's loss stays, too" if loss <= STAYS else f"and the step's loss changes by {loss:.2g}"
    return (
        f"the step moves its structures into a frame of their own: when its batch is rotated, {', '.join(still)} of "
        f"{name} {stay} the same{axes}{others}, {whole}. L_equiv is that of {name} as it is called, and says nothing "
        "of alignment and network together: for that, probe a module whose forward does both"
    )


def _loss_changes(run: RecordedStep, batch: list[Tensor], changed: list[Tensor]) -> float | None:
    """Relative change of the step's number, run with a rotated batch; None of a step without, or in many processes."""
    own = loss_of(run.result)
    if own is None or not alone():  # the others may find something else, and not go along
        return None
    with run.repeating():
        run.rewind()
        with _holding(batch, changed):
            other = loss_of(run.again())
    return None if other is None else float((wide(other) - wide(own)).abs() / wide(own).abs().clamp_min(1e-30))


def _is_coordinates(value: Any) -> bool:
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and value.shape[-1] == 3):
        return False
    return bool(value.numel()) and not isinstance(value, torch.nn.Parameter) and 0 not in value.stride()


def _rotated(value: Tensor, rotation: Tensor) -> Tensor:
    numbers = wide(value.detach())
    return (numbers @ rotation.to(numbers).mT).to(value.dtype)


def _displaced(batch: list[Tensor], rotated: list[Tensor]) -> list[Tensor]:
    """As far from the batch as the rotated one is, at random."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for value, other in zip(batch, rotated, strict=True):
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        found.append(value.detach() + noise * _change(value, other))
    return found


def _asked(run: RecordedStep, batch: list[Tensor], changed: list[Tensor]) -> Mapping[str, Any]:
    """The inputs of the first call of the network, where the step's batch holds other numbers."""
    found: dict[str, Any] = {}

    def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is run.module:
            found.update(run.live.keep(args, kwargs).inputs)
            raise _Called

    with run.repeating():
        run.rewind()
        handle = run.module.register_forward_pre_hook(see, with_kwargs=True, prepend=True)
        try:
            with _holding(batch, changed):
                run.step()
        except _Called:
            pass
        finally:
            handle.remove()
    return found


@contextmanager
def _holding(batch: list[Tensor], changed: list[Tensor]) -> Iterator[None]:
    """A context in which tensors hold other numbers, unnoticed by graphs that have saved them."""
    own = [value.detach().clone() for value in batch]
    try:
        _write(batch, changed)
        yield
    finally:
        _write(batch, own)


def _write(batch: list[Tensor], numbers: list[Tensor]) -> None:
    for value, other in zip(batch, numbers, strict=True):
        with torch.inference_mode(value.is_inference()), torch.no_grad():
            value.data.copy_(other)


def _change(value: Tensor, other: Tensor, *, flipped: bool = False) -> float:
    """Root mean square difference; ``flipped``: of the absolute values. Infinite where shapes differ."""
    if value.shape != other.shape:
        return float("inf")
    a, b = (wide(one.detach()) for one in (value, other))
    return _size(a.abs() - b.abs() if flipped else a - b)


def _size(value: Tensor) -> float:
    return float(wide(value.detach()).nan_to_num().square().mean().sqrt())
