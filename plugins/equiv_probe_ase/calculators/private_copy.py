"""A calculator of one's own: evaluating it leaves the original's memory, neighbour lists and wavefunction alone."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from ase.calculators.calculator import FileIOCalculator
from ase.calculators.genericfileio import GenericFileIOCalculator

from equiv_probe_ase.evaluators.loop import with_wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase.calculators.calculator import Calculator


def own_copy(calculator: Calculator) -> tuple[Calculator, list[str]]:
    """A copy of a calculator and of the calculators that it wraps; networks are shared: evaluation only reads them.

    What cannot be copied (handles of compiled libraries) is left out if the class has a default for it, so that the
    copy makes its own; otherwise it is shared.

    Returns:
        The copy, and the names of the attributes that it shares with the original.
    """
    memo: dict[int, Any] = {id(module): module for module in networks(calculator)}
    originals = list(with_wrapped(calculator))
    twins = [object.__new__(type(one)) for one in originals]
    memo |= {id(one): twin for one, twin in zip(originals, twins, strict=True)}
    shared: list[str] = []
    for one, twin in zip(originals, twins, strict=True):
        shared += _fill(twin, one, memo)
    return twins[0], shared


def _fill(twin: object, original: object, memo: dict[int, Any]) -> list[str]:
    """Copy attributes; the names of those that are shared."""
    kind, shared = type(original), []
    for name, value in vars(original).items():
        before = set(memo)
        try:
            vars(twin)[name] = copy.deepcopy(value, memo)
        except Exception:  # whatever a library's objects raise when they are copied
            # The halves that it leaves behind. One memo for all: it holds its own address as a key, and of a memo that
            # is gone another object may get the address, and pass for copied.
            for key in memo.keys() - before - {id(memo)}:
                del memo[key]
            if not hasattr(kind, name):
                vars(twin)[name] = value
                shared.append(f"{kind.__name__}.{name}")
    return shared


@contextmanager
def own_directories(calculator: Calculator) -> Iterator[None]:
    """Let a copied calculator that runs a program work in a folder of its own, which is removed afterwards.

    In the original's folder it would overwrite the input, the output and the wavefunction from which the next step of
    the dynamics starts. Calculators that it wraps get folders too.
    """
    running = [one for one in with_wrapped(calculator) if isinstance(one, (FileIOCalculator, GenericFileIOCalculator))]
    if not running:
        yield
        return
    with TemporaryDirectory(prefix="equiv_probe_") as folder:
        for place, one in enumerate(running):
            own = Path(folder) / str(place)
            own.mkdir()
            one.directory = own if isinstance(one.directory, Path) else str(own)
        yield


def networks(calculator: Any) -> list[torch.nn.Module]:
    """The torch modules of a calculator: its own, in lists and dicts, one object further in, and of those it wraps."""
    found: dict[int, torch.nn.Module] = {}
    pending, seen = [(calculator, 2)], set[int]()
    while pending:
        holder, depth = pending.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for value in _held(holder):
            if isinstance(value, torch.nn.Module):
                found[id(value)] = value
            elif depth and hasattr(value, "__dict__") and not isinstance(value, type):
                pending.append((value, depth - 1))
    return list(found.values())


def _held(holder: Any) -> Iterator[Any]:
    for value in vars(holder).values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        else:
            yield value
