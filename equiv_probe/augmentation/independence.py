"""Whether rotations are drawn anew: for every draw, item, structure of a batch, worker and epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from equiv_probe.augmentation.alignment import align
from equiv_probe.augmentation.draws import is_generic
from equiv_probe.augmentation.findings import NEW, SAME, Finding
from equiv_probe.augmentation.sample_layout import Layout, read
from equiv_probe.augmentation.uniformity import association, serial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Schema

_ITEMS, _PASSES = 8, 3
_STRUCTURES = 4
_FETCHES = 16
"""By each worker in each epoch."""


def repeats(rotations: Tensor, tolerance: float) -> Tensor:
    """Which pairs of rotations ``(K, 3, 3)`` are the same to within ``tolerance``, ``(K, K)``, without the diagonal."""
    flat = rotations.flatten(1)
    close = torch.cdist(flat, flat, p=float("inf")) <= tolerance
    return close & ~torch.eye(len(flat), dtype=torch.bool)


def check_independence(rotations: Tensor, tolerance: float, alpha: float) -> Finding:
    """Look for rotations ``(K, 3, 3)`` that come again to a tolerance, and draws that know of the one before."""
    count = len(rotations)
    different = count - int(repeats(rotations, tolerance).tril().any(1).sum())
    if different == 1:
        return Finding("independent", False, SAME, 1.0)
    if count - different > max(3, count / 100):
        return Finding(
            "independent",
            False,
            f"only {different} different rotations in {count} draws: from a finite set, cached, or seeded anew",
            float(different),
        )
    test = serial(rotations * torch.linalg.det(rotations).sign()[:, None, None])
    if test.p_value < alpha:
        found = f"each draw knows of the one before it (z = {test.statistic:.1f} at {test.part})"
        return Finding("independent", False, found, test.statistic, test.p_value)
    return Finding("independent", True, NEW, test.statistic, test.p_value)


def check_batch(
    rotations: list[Tensor], determined: tuple[bool, ...], tolerance: float, alpha: float
) -> Iterator[Finding]:
    """Look for structures of a batch that are rotated alike, ``(U, 3, 3)`` in each draw, where points tell."""
    places = [u for u, known in enumerate(determined) if known][:_STRUCTURES]
    if len(places) < 2:
        return
    own = torch.stack(rotations)[:, places]
    alike = (own - own[:, :1]).abs().amax((-2, -1))[:, 1:] <= tolerance
    if bool(alike.all()):
        yield Finding("per structure", False, "all structures of a batch get the same rotation", 1.0)
        return
    proper = own * torch.linalg.det(own).sign()[..., None, None]
    tests = [association(proper[:, 0], proper[:, k]) for k in range(1, len(places))]
    test = min(tests, key=lambda one: one.p_value)
    p = min(1.0, len(tests) * test.p_value)
    if p < alpha or bool(alike.any()):
        found = f"the rotations of two structures of a batch know of each other (z = {test.statistic:.1f})"
        yield Finding("per structure", False, found, test.statistic, p)
    else:
        yield Finding("per structure", True, "each structure of a batch gets a rotation of its own", test.statistic, p)


def check_items(dataset: Any, schema: Schema | None) -> Iterator[Finding]:
    """Fetch several items in several passes, and look for items that are rotated alike in one pass."""
    passes: list[list[Tensor]] = []
    layouts: list[tuple[int, Layout, Tensor]] = []
    for index in range(len(dataset)):
        values = read(dataset[index])
        layout = Layout.of(values, schema)
        points = layout.points(values)[0].clone()
        if is_generic(points):
            layouts.append((index, layout, points))
        if len(layouts) == _ITEMS or index >= 100:
            break
    if len(layouts) < 2:
        return
    for _ in range(_PASSES - 1):
        passes.append([align(x, layout.points(read(dataset[i]))[0]).rotation for i, layout, x in layouts])
    rotated = torch.tensor([float((torch.stack(one) - torch.eye(3)).abs().max()) > 1e-3 for one in passes])
    alike = [bool(repeats(torch.stack(one), 1e-4).any()) for one in passes]
    if bool(rotated.any()):
        passed = not any(alike)
        found = "items fetched one after the other get rotations of their own"
        yield Finding("per item", passed, found if passed else "different items are rotated alike in one pass")


class _Rotated(Dataset[tuple[int, "Tensor"]]):
    """The positions of fresh draws, and which worker made them."""

    def __init__(self, fetch: Callable[[], Any], layout: Layout) -> None:
        self.fetch, self.layout = fetch, layout

    def __len__(self) -> int:
        return _FETCHES

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        info = get_worker_info()
        values = read(self.fetch())
        place = self.layout.name if self.layout.name in values else "pos"
        points = torch.cat(self.layout.points({self.layout.name: values[place]}))
        return info.id if info is not None else -1, points.clone()


def check_workers(
    fetch: Callable[[], Any], layout: Layout, before: Mapping[str, Tensor], tolerance: float, workers: int
) -> Finding:
    """Fetch through a real DataLoader, two epochs, and look for rotations that come again to within a tolerance."""
    loader = DataLoader(
        _Rotated(fetch, layout), batch_size=None, sampler=[0] * (_FETCHES * workers), num_workers=workers
    )
    epochs, owners, rotations = [], [], []
    sizes = [len(atoms) for atoms in layout.atoms]
    points = layout.points(before)
    place = next(u for u, one in enumerate(points) if is_generic(one))
    for epoch in range(2):
        for worker, moved in loader:
            epochs.append(epoch)
            owners.append(int(worker))
            rotations.append(align(points[place], moved.split(sizes)[place]).rotation)
    close = repeats(torch.stack(rotations), tolerance)
    by_epoch, by_worker = torch.tensor(epochs), torch.tensor(owners)
    same_epoch, same_worker = by_epoch[:, None] == by_epoch, by_worker[:, None] == by_worker
    faults = []
    if int((close & same_epoch & same_worker).sum()):
        faults.append("one worker gives the same rotation again")
    if int((close & same_epoch & ~same_worker).sum()):
        faults.append("workers share their random numbers: a generator made in __init__ is copied to each of them")
    if int((close & ~same_epoch).sum()):
        faults.append("the second epoch repeats the first: workers start from a copy of the same generator")
    found = "; ".join(faults) if faults else f"{workers} workers and two epochs give different rotations"
    if faults:
        found += ". Seed it from torch.initial_seed() in worker_init_fn, or draw from torch's global state"
    return Finding("workers", not faults, found, float(close.sum()) / 2)
