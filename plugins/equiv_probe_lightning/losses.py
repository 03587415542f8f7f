"""Which numbers of a step are its losses: the one it returns, and those it logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.running import Running

SAME = 1e-5
"""Of its total, by which a loss may differ from itself: it is summed up in another order in single precision."""
_STAGES = {"train", "training", "val", "valid", "validation", "test", "step", "epoch"}
_ERRORS = {"mse", "mae", "rmse", "nll", "error", "err", "l1", "l2", "huber"}


def losses_of(result: Any, logged: Mapping[str, Any], *, by_structure: bool = False) -> dict[str, Any]:
    """The losses of a step by name; empty if it has none.

    The returned loss is ``"loss"``. Further terms are those whose name says loss or error (mse, mae, rmse, nll, error);
    without any of these all scalar tensors that are logged. The stage in a name (``train_energy_loss``) is left out,
    since the estimates are kept by stage.

    Args:
        result: what the step returned.
        logged: what it logged, by name.
        by_structure: also returned tensors ``(B,)`` whose name says loss.

    >>> x = torch.tensor(1.0)
    >>> losses_of({"loss": x, "y": torch.zeros(3)}, {"train/energy_loss": torch.tensor(0.5), "lr": 0.1})
    {'loss': tensor(1.), 'energy_loss': tensor(0.5000)}
    >>> losses_of(None, {"val_Total_Loss": 0.5, "val_Energy_MAE": 0.25, "step": 3})
    {'Total_Loss': 0.5, 'Energy_MAE': 0.25}
    """
    returned = result.get("loss") if isinstance(result, Mapping) else result
    found = {"loss": returned} if _is_scalar(returned) else {}
    given = {**result, **logged} if isinstance(result, Mapping) else logged
    rest = {n: v for n, v in given.items() if n != "loss" and _is_number(v) and not _same(v, returned)}
    if not found and "loss" in given and _is_number(given["loss"]):
        rest["loss"] = given["loss"]
    named = {name: value for name, value in rest.items() if "loss" in name.lower() or _ERRORS & set(_words(name))}
    if not found and not named:
        named = {name: value for name, value in rest.items() if _is_scalar(value)}
    for name, value in named.items():
        short = _without_stage(name)
        if short == "loss" and "loss" in found:
            continue  # the returned loss again, under its logged name
        found[name if short in found else short] = value
    if by_structure and isinstance(result, Mapping):
        found.update({n: v for n, v in result.items() if n not in found and "loss" in n.lower() and _is_column(v)})
    return found


def repeated(running: Mapping[tuple[str, str], Running], stage: str) -> list[str]:
    """Names whose numbers are those of an earlier name, to rounding, at all rotations: one loss under two names.

    Args:
        running: the estimates after the first measurement; the device is waited for.
        stage: whose names.
    """
    found: list[str] = []
    kept: list[Tensor] = []
    for (own, name), one in running.items():
        if own != stage or not one.labelled:
            continue
        sums = one.everything.first
        if any(torch.allclose(sums, other, rtol=0.0, atol=SAME * float(other[1].abs())) for other in kept):
            found.append(name)
        else:
            kept.append(sums)
    return found


@cache
def _words(name: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\W_]+", name.lower()) if word)


@cache
def _without_stage(name: str) -> str:
    words = [word for word in re.split(r"[\W_]+", name) if word and word.lower() not in _STAGES]
    return "_".join(words) or name


def _is_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()


def _is_column(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 1 and value.is_floating_point()


def _is_number(value: Any) -> bool:
    return _is_scalar(value) or (isinstance(value, float))


def _same(value: Any, returned: Any) -> bool:
    """Whether a logged tensor is the returned loss, or a detached view of it; nothing is read from the device."""
    if value is returned:
        return True
    both = isinstance(value, torch.Tensor) and isinstance(returned, torch.Tensor)
    return both and value.dtype == returned.dtype and value.data_ptr() == returned.data_ptr() != 0
