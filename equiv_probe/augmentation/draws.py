"""Draws from a user's augmentation: a transform applied to one sample again and again, or an item fetched again."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.augmentation.alignment import align, extents
from equiv_probe.augmentation.label_check import EPS, Draw
from equiv_probe.augmentation.sample_layout import Layout, generic_sample, read
from equiv_probe.errors import EquivProbeError
from equiv_probe.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from equiv_probe.schema.schema import Schema

_FLAT = 1e-3
"""Below this fraction of its longest extent a structure counts as flat: reflections in its plane cannot be seen."""
_ITEMS = 100
"""Items of a dataset that are looked at for one that is not flat."""


def cloned(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the values, as they are now."""
    return {name: value.detach().clone() for name, value in values.items()}


@dataclass
class Source:
    """Something to draw from: ``fetch`` gives a fresh draw; for a transform, of a copy of the sample.

    Attributes:
        before: the sample by name; of a dataset, its first draw.
        absolute: whether ``before`` is the unrotated sample, or one that was rotated itself.
        written: names of tensors that a draw wrote into though they belong to somebody else.
        replaced: names of entries that the transform replaced in the very sample it was given.
    """

    fetch: Callable[[], Any]
    before: dict[str, Tensor]
    absolute: bool
    written: set[str]
    replaced: set[str]

    def layout(self, schema: Schema | None) -> Layout:
        """Where the positions are."""
        return Layout.of(self.before, schema)


def of_transform(transform: Callable[[Any], Any], sample: Any) -> Source:
    """Draw by applying a transform to copies of a sample; None makes a generic one.

    Raises:
        EquivProbeError: no sample was given, and the transform takes neither a dict nor a tensor of positions.
    """
    if sample is None:
        sample = _accepted(transform)
    source = Source(lambda: None, cloned(read(sample)), True, set(), set())

    def fetch() -> Any:
        given = copy.deepcopy(sample)
        held = read(given)
        result = transform(given)
        source.written.update(n for n, v in held.items() if not same(v, source.before[n]))
        now = read(given)
        source.replaced.update(n for n, v in held.items() if n not in now or not same(now[n], v))
        return result

    source.fetch = fetch
    return source


def _accepted(transform: Callable[[Any], Any]) -> Any:
    generic = generic_sample()
    errors = []
    for sample in (generic, generic["pos"]):
        try:
            if read(transform(copy.deepcopy(sample))):
                return sample
            errors.append("it returned nothing with a tensor")
        except Exception as error:  # whatever the user's code raises for what it does not know
            errors.append(f"{type(error).__name__}: {error}")
    raise EquivProbeError(
        f"a transform that takes neither a dict {sorted(generic)} ({errors[0]}) nor a tensor ({errors[1]})",
        "a sample of the kind that it takes",
        "ep.check_augmentation(transform, sample=dataset[0])",
    )


def of_item(dataset: Any, index: int) -> Source:
    """Draw by fetching one item again and again."""
    first = dataset[index]
    before = cloned(read(first))
    source = Source(lambda: None, before, False, set(), set())

    def fetch() -> Any:
        result = dataset[index]
        # What was handed out before must not change under its owner's hands.
        source.written.update(n for n, v in read(first).items() if not same(v, before[n]))
        return result

    source.fetch = fetch
    return source


def generic_item(dataset: Any, schema: Schema | None) -> Source:
    """Draw from the first item with a structure that is not flat.

    Raises:
        EquivProbeError: there is none among the first hundred.
    """
    for index in range(min(len(dataset), _ITEMS)):
        source = of_item(dataset, index)
        if any(is_generic(points) for points in source.layout(schema).points(source.before)):
            return source
    raise _flat(f"a dataset whose first {min(len(dataset), _ITEMS)} items are flat", "dataset")


def require_generic(source: Source, layout: Layout) -> None:
    """Raise EquivProbeError if every structure of a sample is flat."""
    if not any(is_generic(points) for points in layout.points(source.before)):
        raise _flat("a sample whose atoms lie in a plane", "transform, sample=...")


def _flat(found: str, call: str) -> EquivProbeError:
    return EquivProbeError(
        found,
        "four atoms or more that do not, since a flat molecule does not tell a reflection from a rotation",
        f"ep.check_augmentation({call}) with a molecule that is not flat",
    )


def is_generic(points: Tensor) -> bool:
    """Whether points ``(N, 3)`` fill space, so that a motion of them tells its rotation and its determinant."""
    extent = extents(points)
    return bool(extent[2] > _FLAT * extent[0])


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, not-a-numbers included."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b) or (a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num())))


def drawn(source: Source, layout: Layout, result: Any) -> Draw:
    """Find out how each structure moved.

    Raises:
        EquivProbeError: the positions are gone, or their number changed.
    """
    values = read(result)
    if list(values) == ["pos"] and layout.name not in values:  # a transform from a dict to positions alone
        values = {layout.name: values["pos"]}
    old, new = source.before[layout.name], values.get(layout.name)
    if new is None or new.shape != old.shape:
        found = "none" if new is None else f"shape {tuple(new.shape)}"
        raise EquivProbeError(
            f"positions {layout.name!r} of shape {tuple(old.shape)} before, and {found} after",
            "the same atoms in the same order",
            "check the rotation by itself, before atoms are dropped or sorted",
        )
    pairs = list(zip(layout.points(source.before), layout.points(values), strict=True))
    generic = [is_generic(x) for x, _ in pairs]
    motions = tuple(align(x, y, proper=not full) for (x, y), full in zip(pairs, generic, strict=True))
    improper = any(float(torch.linalg.det(m.rotation)) < 0 for m in motions)
    determined = tuple(
        full or (not improper and bool(extents(x)[1] > _FLAT * extents(x)[0] > 0))
        for (x, _), full in zip(pairs, generic, strict=True)
    )
    error = 0.0
    for (x, y), motion, known in zip(pairs, motions, determined, strict=True):
        if known:
            error = max(error, (4 * motion.misfit + rounding(x, y)) / float(extents(x)[1]))
    return Draw(cloned(values), motions, error, determined)


def rounding(before: Tensor, after: Tensor) -> float:
    """What rounding may move a point, in the points' unit: 64 spacings of numbers as large as the coordinates."""
    eps = max(EPS, float(torch.finfo(before.dtype).eps), float(torch.finfo(after.dtype).eps))
    return 64 * eps * max(float(before.abs().max()), float(after.abs().max()))


def fetched(source: Source, count: int, *, shown: bool) -> Iterator[Any]:
    """Fresh draws, with progress where that is to be shown."""
    with progress(count, "drawing from the augmentation", shown=shown) as advance:
        for _ in range(count):
            yield source.fetch()
            advance(1)
