"""Visitors that measure activations at one rotation after the other: samples, moments, and replaced ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from equiv_probe.live.capture import wide

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.diagnosis.layers.calls import Call, CallKey
    from equiv_probe.diagnosis.layers.carried import Carried
    from equiv_probe.diagnosis.layers.sites import Place, Site

NUMBERS = 2**24
"""That samples of all activations at all rotations may hold."""
PER_SITE = 4096
"""That samples of one activation at one rotation hold, unless they are fewer than some rows."""
ROWS = 3
"""Likewise at least, of an activation no wider than that."""


class Visiting:
    """A visitor that is shown each activation where it is met first."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._at: dict[Place, Site] = {site.place: site for site in sites}
        self.met: set[int] = set()

    def enter(self, call: Call) -> Mapping[str, Tensor] | None:
        """See :class:`Visitor`."""
        for name, value in call.inputs.items():
            self._show((call.key, "in", name), value)
        return None

    def leave(self, call: Call) -> Mapping[str, Tensor] | None:
        """See :class:`Visitor`."""
        for name, value in call.outputs.items():
            self._show((call.key, "out", name), value)
        return None

    def _show(self, place: Place, value: Tensor) -> None:
        site = self._at.get(place)
        if site is None or site.lost or id(site) in self.met:
            return
        self.met.add(id(site))
        if value.shape != site.shape:
            site.lost = f"its shape changes with the orientation: {tuple(site.shape)}, {tuple(value.shape)}"
        elif value.is_floating_point() and not bool(value.isfinite().all()):
            site.lost = "it is not finite"
        else:
            self.look(site, value.detach())

    def missed(self) -> list[Site]:
        """Activations that were not met in this evaluation."""
        return [site for site in self._at.values() if id(site) not in self.met]

    def look(self, site: Site, value: Tensor) -> None:
        """An activation, ``(*S)``, finite and detached."""
        raise NotImplementedError


class Samples(Visiting):
    """Some rows of every activation, ``(R, P, F)``: F its last axis, P the one before where there are three or more."""

    def __init__(self, sites: Sequence[Site], rotations: int) -> None:
        super().__init__(sites)
        self._limit = max(256, min(PER_SITE, NUMBERS // (rotations * max(1, len(sites)))))
        self.taken: dict[int, Tensor] = {}

    def look(self, site: Site, value: Tensor) -> None:
        """See :class:`Visiting`."""
        if site.is_empty or not site.is_floating:
            return
        rows = _rows(value)
        # Of one row alone a channel may be nothing by chance, and be taken for whatever does not rotate.
        most = max(ROWS if rows[0].numel() <= PER_SITE else 1, self._limit // max(1, rows[0].numel()))
        if rows[0].numel() > 4 * PER_SITE:
            return
        if len(rows) > most:  # every so many rows, the same at all rotations
            rows = rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).long()]
        self.taken[id(site)] = wide(rows).clone()


def _rows(value: Tensor) -> Tensor:
    if value.ndim < 2:
        few = value.numel() <= 16
        return value.reshape((1, 1, -1) if few else (-1, 1, 1))
    return value[:, None] if value.ndim == 2 else value.flatten(0, -3)


class Moments(Visiting):
    """Mean and mean square deviation of activations, rotated back under some representations, streamed (Welford).

    Args:
        candidates: of every activation.
    """

    def __init__(self, candidates: Mapping[int, Sequence[Carried]], sites: Iterable[Site]) -> None:
        super().__init__(site for site in sites if id(site) in candidates)
        self.candidates = candidates
        self.means: dict[int, list[Tensor]] = {}
        self.sums: dict[int, list[float]] = {}
        self.squares: dict[int, float] = {}
        self.counts: dict[int, int] = {}
        self._rotation = torch.eye(3, dtype=torch.float64)

    def at(self, rotation: Tensor) -> Moments:
        """For one evaluation at a rotation ``(3, 3)``."""
        self._rotation, self.met = rotation, set()
        return self

    def look(self, site: Site, value: Tensor) -> None:
        """See :class:`Visiting`."""
        key, value = id(site), wide(value)
        count = self.counts[key] = self.counts.get(key, 0) + 1
        self.squares[key] = self.squares.get(key, 0.0) + (float(value.square().mean()) if value.numel() else 0.0)
        known = self.means.setdefault(key, [value.new_zeros(()) for _ in self.candidates[key]])
        sums = self.sums.setdefault(key, [0.0] * len(known))
        for place, carried in enumerate(self.candidates[key]):
            back = carried.rotate_back(value, self._rotation)
            step = back - known[place]
            known[place] = known[place] + step / count
            sums[place] += float((step * (back - known[place])).mean()) if value.numel() else 0.0

    def size(self, site: Site) -> float:
        """Root mean square of an activation over rotations."""
        count = self.counts.get(id(site), 0)
        return math.sqrt(self.squares[id(site)] / count) if count else math.nan

    def excess(self, site: Site) -> list[float]:
        """Variance over rotations under each candidate, without bias, mean over components."""
        count = self.counts.get(id(site), 0)
        return [one / (count - 1) for one in self.sums[id(site)]] if count > 1 else []


class Discrete(Visiting):
    """Whether whole numbers and booleans are the same at all rotations, or at least in another order."""

    def __init__(self, sites: Iterable[Site]) -> None:
        super().__init__(site for site in sites if not (site.is_floating or site.dtype.is_complex))
        self._first: dict[int, Tensor] = {}

    def look(self, site: Site, value: Tensor) -> None:
        """See :class:`Visiting`."""
        first = self._first.setdefault(id(site), value.clone())
        if not torch.equal(first, value):
            same = value.ndim > 0 and torch.equal(first.sort(0).values, value.sort(0).values)
            site.changes, site.reordered = site.changes + (not same), site.reordered or same


class Together:
    """Several visitors that only look."""

    def __init__(self, *visitors: Visiting) -> None:
        self._visitors = visitors

    def enter(self, call: Call) -> None:
        """See :class:`Visitor`."""
        for one in self._visitors:
            one.enter(call)

    def leave(self, call: Call) -> None:
        """See :class:`Visitor`."""
        for one in self._visitors:
            one.leave(call)


class Patch:
    """A visitor that replaces activations of one call by their group average, rotated to the frame at hand.

    Gradients pass as if nothing had been replaced, so that models that differentiate inside still run.

    Args:
        key: of the call.
        side: what goes ``"in"`` or what comes ``"out"``.
        sites: activations to replace, by name.
    """

    def __init__(self, key: CallKey, side: str, sites: Mapping[str, Site]) -> None:
        self._key, self._side, self._sites = key, side, sites
        self._rotation = torch.eye(3, dtype=torch.float64)
        self._originals: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, rotation: Tensor) -> Patch:
        """For one evaluation at a rotation ``(3, 3)``."""
        self._rotation, self._originals = rotation, {}
        return self

    def enter(self, call: Call) -> Mapping[str, Tensor] | None:
        """See :class:`Visitor`."""
        if self._side != "in" or call.key != self._key:
            return None
        replaced = self._replaced(call.inputs)
        self._originals = {id(new): (new, call.inputs[name]) for name, new in replaced.items()}
        return replaced

    def leave(self, call: Call) -> Mapping[str, Tensor] | None:
        """See :class:`Visitor`."""
        if call.key != self._key:
            return None
        if self._side == "out":
            return self._replaced(call.outputs)
        # What the call only passes on, as entries of a dict that goes through it, is for others as it was.
        passed = {name: self._originals.get(id(value)) for name, value in call.outputs.items()}
        return {name: found[1] for name, found in passed.items() if found is not None}

    def _replaced(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, value in values.items():
            site = self._sites.get(name)
            if site is None or site.mean is None or value.shape != site.shape:
                continue
            wanted = site.carried.rotate(site.mean, self._rotation).to(value)
            found[name] = value + (wanted - value).detach() if value.requires_grad else wanted
        return found
