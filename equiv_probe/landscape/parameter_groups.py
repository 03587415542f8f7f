"""Parameters of modules by name, and the groups that gradients are measured by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError, nearest

if TYPE_CHECKING:
    from torch import Tensor

ALL = "all"
"""The group of all parameters."""
Groups = Callable[[str], str | None] | torch.optim.Optimizer | Iterable[Mapping[str, Any]] | None
"""What sorts parameters into groups: their names, an optimizer, or its ``param_groups``; None: their modules."""
Block = str | nn.Module | Mapping[str, "Tensor"] | Iterable[Any]
"""Which weights: names of parameters or modules, or patterns of them such as ``"layers.*.mlp"``; modules; tensors, with
names or without; or an iterable of all these."""


def grouped(parameters: Mapping[str, Tensor], groups: Groups = None) -> dict[str, list[int]]:
    """Places of the parameters of each group, those of ``"all"`` first.

    Args:
        parameters: by name.
        groups: as for :func:`equiv_probe.gradients`.

    Raises:
        EquivProbeError: there is no parameter.

    >>> grouped({"net.a.weight": torch.ones(1), "net.a.bias": torch.ones(1), "net.b.weight": torch.ones(1)})
    {'all': [0, 1, 2], 'a': [0, 1], 'b': [2]}
    """
    if not parameters:
        raise EquivProbeError("no parameter that requires a gradient", "at least one", "parameter.requires_grad_()")
    label = _labels(parameters, groups)
    found: dict[str, list[int]] = {ALL: []}
    for k, name in enumerate(parameters):
        group = label(name)
        if group is not None:
            found[ALL].append(k)
            if group != ALL:
                found.setdefault(group, []).append(k)
    if not found[ALL]:
        raise EquivProbeError(f"groups that hold none of {list(parameters)}", "at least one parameter", "groups=None")
    return found


def _labels(parameters: Mapping[str, Tensor], groups: Groups) -> Callable[[str], str | None]:
    if groups is None:
        paths = {name: name.split(".") for name in parameters}
        depth = 0
        # What all are in is no group: `net.` of a wrapper.
        while all(len(path) > depth + 2 for path in paths.values()) and len({p[depth] for p in paths.values()}) == 1:
            depth += 1
        return lambda name: paths[name][depth]
    if isinstance(groups, torch.optim.Optimizer):
        groups = groups.param_groups
    if callable(groups):
        return groups
    owner = {
        id(parameter): str(group.get("name", f"group {k}"))
        for k, group in enumerate(groups)
        for parameter in group["params"]
    }
    return lambda name: owner.get(id(parameters[name]))


def parameters_of(modules: Iterable[torch.nn.Module]) -> dict[str, Tensor]:
    """The parameters of modules by name, each once; of two of one name, the later has its place before it."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for k, module in enumerate(modules):
        for name, value in module.named_parameters():
            if id(value) not in seen:
                seen.add(id(value))
                found[name if name not in found else f"{k}.{name}"] = value
    return found


def block_of(chosen: Block, known: Mapping[str, Tensor]) -> list[tuple[str, Any]]:
    """The weights that are meant, by name.

    Args:
        chosen: names, patterns, modules or tensors.
        known: the weights that a loss names: names are looked for among them, and tensors are called as they are there.

    Raises:
        EquivProbeError: a name or pattern that fits none of them.

    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> known = dict(net.named_parameters())
    >>> [[name for name, _ in block_of(chosen, known)] for chosen in ("2", ["*.bias"], net[0])]
    [['2.weight', '2.bias'], ['0.bias', '2.bias'], ['0.weight', '0.bias']]
    """
    if isinstance(chosen, Mapping):
        return list(chosen.items())
    called = {id(value): name for name, value in known.items()}
    found: list[tuple[str, Any]] = []
    entries = [chosen] if isinstance(chosen, (str, nn.Module)) else chosen
    for k, entry in enumerate(entries):
        if isinstance(entry, str):
            found += _named(entry, known)
        elif isinstance(entry, nn.Module):
            found += [(called.get(id(value), name), value) for name, value in entry.named_parameters()]
        else:
            found.append(entry if isinstance(entry, tuple) else (called.get(id(entry), str(k)), entry))
    return found


def _named(pattern: str, known: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The parameters that a pattern fits, or in whose modules it fits."""
    found = [(name, p) for name, p in known.items() if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
    if not found:
        modules = dict.fromkeys(".".join(name.split(".")[:k]) for name in known for k in range(1, name.count(".") + 2))
        close = nearest(pattern, modules)
        raise EquivProbeError(
            f"parameters={pattern!r}, which fits none of the loss's weights",
            f"names or patterns of {', '.join(list(known)[:4])}{', …' if len(known) > 4 else ''}"
            if known
            else "a loss that names its weights, as OrbitLoss does; or modules or tensors",
            f"parameters={close!r}" if close else "",
        )
    return found
