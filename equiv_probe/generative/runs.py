"""One run of a sampler after the other, in this frame or that, with the same random numbers in each."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.drawn_rotations import FOREIGN
from equiv_probe.generative.initial_noise import stream
from equiv_probe.generative.noise import Noise
from equiv_probe.generative.noise_frame import Frame
from equiv_probe.generative.noise_source import Randn
from equiv_probe.generative.outputs import OutputReader
from equiv_probe.live.generators import put_back
from equiv_probe.representations.representation import point, vector
from equiv_probe.schema.schema import Schema

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.layout import Layout
    from equiv_probe.generative.noise import Drawn, Rotates
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.structures import Structures

_FIX_ROTATIONS = (
    'audit_sampler(..., foreign="same") where these are all numbers of it, the rotations then go along; or \
def sampler(noise, randn), and draw them by randn.rotations(B)'
)
Frames = Literal["along", "fixed", "conjugate", "left", "right"]
_FIX = 'take the source of noise as an argument, def sampler(noise, randn), and draw by randn(shape); or, if these \
numbers are no directions, audit_sampler(..., foreign="same")'


@dataclass
class SamplerRuns:
    """How a sampler is run.

    Args:
        sampler: ``noise -> end points`` or ``(noise, randn) -> end points``.
        noise: the initial noise.
        structures: its samples.
        outputs: representations of the end points, as far as they are declared.
        path: whether the sampler returns all that it passes by.
        rotates: whether a draw has a direction, see :class:`equiv_probe.generative.noise.Noise`.
        frames: whether random frames of a twirled network rotate ``"along"``.
        foreign: what becomes of noise from NumPy's and Python's random state.
        shared: whether all samples rotate alike.
        grad: run with gradients enabled.
        rep: of the initial noise.
        layout: of the noise and of draws, where it is not ``(..., N, 3)``; ``noise`` itself is in the usual one.

    Attributes:
        noises: what the runs drew, in order.
        way: how drawn rotations go with the frame.
        drawn: what the first run showed of them.
        foreign_drawn: whether NumPy's or Python's random state was drawn from.
    """

    sampler: Callable[..., Any]
    noise: Tensor
    structures: Structures
    outputs: Mapping[str, Representation]
    path: bool = False
    rotates: Rotates | None = None
    frames: Frames = "along"
    foreign: Literal["refuse", "same"] = "refuse"
    shared: bool = False
    grad: bool = False
    rep: Representation = point
    layout: Layout | None = None
    noises: list[Noise] = field(default_factory=list)
    way: Way = "same"
    drawn: Drawn | None = None
    foreign_drawn: bool = False

    def __post_init__(self) -> None:
        self._reader = OutputReader(
            Schema({"noise": self.rep}, dict(self.outputs)), self.noise, self.structures, self.layout
        )
        self._randn = _takes_randn(self.sampler)
        self._generators: dict[int, tuple[Any, Any]] = {}

    @property
    def schema(self) -> Schema:
        """The representations, all of them after the first run."""
        return self._reader.schema

    def run(
        self, seed: int, rotations: Tensor | None = None, *, back: bool = False, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """End points, rotated back, by name, ``(T, *S)`` float64; T is 1 without a path.

        Args:
            seed: of everything that is drawn on the way.
            rotations: ``(U, 3, 3)``; None runs in the unrotated frame.
            back: rotate all noise there and back again, so that nothing rotates but the last digits.
            noise: another initial noise; the sampler's own generators go on, too, and give other numbers.
        """
        start = self.noise if noise is None else noise
        if noise is None:
            self.put_back()
        rep = self.rep if self.rep.is_whole else vector
        options: dict[str, Any] = {"shared": self.shared, "back": back, "rep": rep, "layout": self.layout}
        frame = Frame(tuple(start.shape), self.structures, rotations, **options)
        if back and self.rep.is_whole:
            start = frame.in_the_last_digit(start)
        elif rotations is not None:
            start = self.rotated(start, rotations)
            if back:
                start = self.rotated(start, rotations, back=True)
        if self.layout and self.layout.of_noise:
            start = self.layout.back(start)
        values = self._reader.read(self._call(start.clone(), frame, seed), path=self.path)
        if rotations is None or back:
            return values
        steps = len(next(iter(values.values())))
        return self.structures.rotate_back(values, self.schema, rotations.expand(steps, *rotations.shape))

    def put_back(self) -> None:
        """Undo what the sampler's own generators were asked for."""
        for generator, state in self._generators.values():
            put_back(generator, state)

    def rotated(self, noise: Tensor, rotations: Tensor, *, back: bool = False) -> Tensor:
        """Initial noise, rotated in float64 and rounded once."""
        wide = Schema({"noise": self.rep}, {"noise": self.rep})
        given = {"noise": noise.cpu().double()}  # not every device has float64
        if back:
            given = self.structures.rotate_back({"noise": given["noise"][None]}, wide, rotations[None])
        else:
            given = self.structures.rotate(given, wide, rotations[None])
        return given["noise"][0].to(noise)

    def _call(self, start: Tensor, frame: Frame, seed: int) -> Any:
        """One call of the sampler, its random numbers under control."""
        own = stream(seed, 1)
        random.seed(own)
        np.random.seed(own)  # noqa: NPY002 - the global state is what users draw from
        torch.manual_seed(own)
        before, cpu = _foreign_states(), torch.get_rng_state()
        followed = start if self.drawn is None or self.drawn.targets else None
        noise = Noise(
            frame,
            stream(seed, 2),
            self.rotates,
            along=self.frames != "fixed",
            start=followed,
            drawn=self.drawn,
            way=self.way,
            foreign=lambda: _foreign_states() != before,
        )
        arguments: dict[str, Any] = {self._randn: Randn(noise, start)} if self._randn else {}
        try:
            with torch.set_grad_enabled(self.grad), noise:
                output = self.sampler(start, **arguments)
                if self.path and not isinstance(output, (torch.Tensor, Mapping)):
                    output = list(output)  # a generator runs here
        finally:
            self._generators = {**noise.generators, **self._generators}
        for name, was, now in zip(("NumPy", "Python"), before, _foreign_states(), strict=True):
            self.foreign_drawn |= was != now
            if was != now and self.foreign == "refuse":
                found = (
                    f"a sampler that draws from {name}'s global random state, which cannot be rotated with the frame"
                )
                if FOREIGN in noise.making:
                    found = f"{found}; rotation matrices were made of it"
                raise EquivProbeError(found, "noise from torch", _FIX_ROTATIONS if FOREIGN in noise.making else _FIX)
        if not noise.seen and not torch.equal(cpu, torch.get_rng_state()):
            found = "a sampler that moves torch's random state by code that draws around torch's operators"
            raise EquivProbeError(found, "noise from torch's operators", _FIX)
        if self.drawn is None:
            noise.require_allowed()
            self.drawn = noise.found()
        if noise.following is not None:
            noise.following.forget()
        self.noises.append(noise)
        return output


def _takes_randn(sampler: Callable[..., Any]) -> str:
    """The name of the argument by which a sampler takes its source of noise; empty if it takes none."""
    called = sampler.forward if isinstance(sampler, nn.Module) else sampler
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        return ""
    kinds = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    named = [one for one in parameters if one.kind in kinds]
    if any(one.name == "randn" for one in named):
        return "randn"
    needed = [one.name for one in named if one.default is inspect.Parameter.empty]
    if len(needed) > 2:
        raise EquivProbeError(
            f"a sampler with the arguments {needed}",
            "noise alone, or noise and a source of more",
            "ep.audit_sampler(lambda noise: sampler(noise, ...), ...)",
        )
    return needed[1] if len(needed) == 2 else ""


def _foreign_states() -> tuple[Any, Any]:
    name, key, *rest = np.random.get_state()  # noqa: NPY002
    return (name, bytes(np.asarray(key)), *rest), random.getstate()
