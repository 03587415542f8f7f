"""Edges that are gained or lost under rotation."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "edges"


@experiment(NAME, "graph", "Are edges gained or lost under rotation?", cost=2 * FEW + 1)
def edges(subject: Subject) -> Findings:
    """Watch the whole-number tensors ``(2, E)`` that modules pass on, and hold them as they are without rotation."""
    if subject.module is None:
        raise NotApplicable("edges are seen in modules only")
    known = [_edges_at(subject, rotation) for rotation in (torch.eye(3, dtype=torch.float64), *subject.rotations[:FEW])]
    if not known[0]:
        raise NotApplicable("no module takes or gives edges, whole numbers (2, E)")
    if all(one is None or any(one is given for given in subject.inputs.values()) for one in known[0].values()):
        raise NotApplicable("edges are given with the input")
    path, change, where = _largest_change(known)
    if not change:
        return
    after = _with_edges_held(subject, path)
    for name in subject.broken:
        best = subject.compare(name, after[name])
        sentence = (
            f"edges in {path or 'the model'} depend on the orientation: up to {change} gained or lost of "
            f"{known[0][path].shape[1]}, the first at atom {where[1]} (with {where[0]}); {name!r} is off by "
            f"{number(best.after, 2)} and not {number(best.before, 2)} if the edges are held"
        )
        advice = _advice(known[0][path])
        yield finding(NAME, name, best, sentence, advice)


def _edges_at(subject: Subject, rotation: Tensor) -> dict[str, Tensor]:
    """The first edges that each module gives or takes at a rotated input, by the module's path."""
    assert subject.module is not None
    found: dict[str, Tensor] = {}

    def watch(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            given = next((one for value in (output, args) for one in _edge_tensors(value)), None)
            if given is not None:
                found.setdefault(path, given.detach().clone())

        return hook

    handles = [module.register_forward_hook(watch(path)) for path, module in subject.module.named_modules()]
    try:
        subject.again(rotations=rotation[None])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _edge_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point() and value.dtype != torch.bool and value.ndim == 2 and len(value) == 2:
            yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _edge_tensors(one)
    elif isinstance(value, dict):
        yield from _edge_tensors(list(value.values()))


def _largest_change(known: list[dict[str, Tensor]]) -> tuple[str, int, tuple[int, int]]:
    """The path of the module whose edges change most, by how many, and the first edge that does."""
    best: tuple[str, int, tuple[int, int]] = ("", 0, (0, 0))
    for path, own in known[0].items():
        first = _counted(own)
        for other in known[1:]:
            if path not in other:
                continue
            there = _counted(other[path])
            differing = sorted(((first - there) + (there - first)).elements())
            if len(differing) > best[1]:
                best = (path, len(differing), differing[0])
    return best


def _counted(edge_index: Tensor) -> Counter[tuple[int, int]]:
    return Counter((int(i), int(j)) for i, j in edge_index.T.tolist())


def _with_edges_held(subject: Subject, path: str) -> dict[str, Tensor]:
    """Outputs at rotated inputs, with a module's edges as they are at the input as it is."""
    assert subject.module is not None
    module = dict(subject.module.named_modules())[path]
    with _held(module):
        return subject.again(
            rotations=torch.cat([torch.eye(3, dtype=torch.float64)[None], subject.rotations[: FEW - 1]])
        )


@contextmanager
def _held(module: nn.Module) -> Iterator[None]:
    kept: list[Any] = []

    def hold(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if not any(True for _ in _edge_tensors(output)):
            raise NotApplicable("edges depend on the orientation, but the module that makes them could not be told")
        if any(v.is_floating_point() for v in _tensors(output)):
            raise NotApplicable("edges depend on the orientation; they come with vectors, and cannot be held alone")
        kept.append(output)
        return kept[0]

    handle = module.register_forward_hook(hold)
    try:
        yield
    finally:
        handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)


def _advice(edge_index: Tensor) -> str:
    counts = torch.bincount(edge_index[1])
    most = int(counts.max())
    reach = int((counts == most).sum())
    if reach > 1 and reach >= len(counts) / 4:
        return (
            f"{reach} atoms have exactly {most} neighbours: a cap on their number, such as max_num_neighbors or k "
            "nearest, cuts between neighbours at equal distances. Raise it, or keep whole shells."
        )
    return (
        "Atoms lie at the cutoff to the last digit: give it a smooth envelope that vanishes there, and compute "
        "distances in higher precision."
    )
