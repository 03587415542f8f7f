"""One run of a sampler after the other, in this frame or that, with the same random numbers in each."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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
from equiv_probe.live.random_state import put_back
from equiv_probe.representations.representation import vector
from equiv_probe.schema.schema import Schema

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Way
    from equiv_probe.generative.initial_noise import InitialNoise
    from equiv_probe.generative.noise import Drawn
    from equiv_probe.generative.options import Options

_FIX = (
    "take the source of noise as an argument, def sampler(noise, randn), and draw by randn(shape); or, if these "
    'numbers are no directions, audit_sampler(..., foreign="same")'
)
_FIX_ROTATIONS = (
    'audit_sampler(..., foreign="same") where these are all numbers of it, the rotations then go along; or '
    "def sampler(noise, randn), and draw them by randn.rotations(B)"
)


class SamplerRuns:
    """Runs a sampler, ``noise -> end points`` or ``(noise, randn) -> end points``, one frame after the other.

    Attributes:
        noise: the initial noise, ``(..., N, 3)`` or grids, whatever its layout.
        noises: what the runs drew, in order.
        way: how drawn rotations go with the frame.
        drawn: what the first run showed of them.
        foreign_drawn: whether NumPy's or Python's random state was drawn from.
        seeds_itself: whether the sampler seeds torch, or a generator that it makes in every run.
    """

    def __init__(self, sampler: Callable[..., Any], start: InitialNoise, options: Options) -> None:
        self.start, self.options, self._sampler, self._randn = start, options, sampler, _takes_randn(sampler)
        self.noise, self.rep = start.draw(options.seed), start.rep
        self.structures, self._layout = start.structures(self.noise.cpu()), start.seen_layout(options.seed)
        schema = Schema({"noise": self.rep}, dict(options.outputs))
        self._reader = OutputReader(schema, self.noise, self.structures, self._layout)
        self.noises: list[Noise] = []
        self.way: Way = "same"
        self.drawn: Drawn | None = None
        self.foreign_drawn = self.seeds_itself = False
        self._generators: dict[int, tuple[Any, Any]] = {}

    @property
    def schema(self) -> Schema:
        """The representations, all of them after the first run."""
        return self._reader.schema

    @property
    def shared(self) -> bool:
        """Whether all samples rotate alike."""
        return not self.options.per_sample

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
        frame = Frame(
            tuple(start.shape),
            self.structures,
            rotations,
            shared=self.shared,
            back=back,
            rep=self.rep if self.rep.is_whole else vector,
            layout=self._layout,
        )
        if back and self.rep.is_whole:
            start = frame.in_the_last_digit(start)
        elif rotations is not None:
            start = self.rotated(start, rotations)
            if back:
                start = self.rotated(start, rotations, back=True)
        if self._layout and self._layout.of_noise:
            start = self._layout.back(start)
        values = self._reader.read(self._call(start.clone(), frame, seed), path=self.options.path)
        if rotations is None or back:
            return values
        steps = len(next(iter(values.values())))
        return self.structures.rotate_back(values, self.schema, rotations.expand(steps, *rotations.shape))

    def as_given(self, values: dict[str, Tensor], rotations: Tensor) -> dict[str, Tensor]:
        """End points of a rotated run as the sampler gave them, from those that :meth:`run` has rotated back."""
        steps = len(next(iter(values.values())))
        return self.structures.rotate_back(values, self.schema, rotations.mT.expand(steps, *rotations.shape))

    def put_back(self) -> None:
        """Undo what the sampler's own generators were asked for."""
        for generator, state in self._generators.values():
            put_back(generator, state)

    def rotated(self, noise: Tensor, rotations: Tensor, *, back: bool = False) -> Tensor:
        """Initial noise, rotated in float64 and rounded once."""
        schema = Schema({"noise": self.rep}, {"noise": self.rep})
        wide = noise.cpu().double()  # not every device has float64
        if back:
            moved = self.structures.rotate_back({"noise": wide[None]}, schema, rotations[None])
        else:
            moved = self.structures.rotate({"noise": wide}, schema, rotations[None])
        return moved["noise"][0].to(noise)

    def _call(self, start: Tensor, frame: Frame, seed: int) -> Any:
        """One call of the sampler, its random numbers under control."""
        own = stream(seed, 1)
        random.seed(own)
        np.random.seed(own)  # noqa: NPY002 - the global state is what users draw from
        torch.manual_seed(own)
        before, cpu, seeded = _foreign_states(), torch.get_rng_state(), torch.initial_seed()
        noise = Noise(
            frame,
            stream(seed, 2),
            self.options.rotates,
            along=self.options.frames != "fixed",
            start=start if self.drawn is None or self.drawn.targets else None,
            drawn=self.drawn,
            way=self.way,
            foreign=lambda: _foreign_states() != before,
        )
        arguments: dict[str, Any] = {self._randn: Randn(noise, start)} if self._randn else {}
        try:
            with torch.set_grad_enabled(self.options.grad), noise:
                output = self._sampler(start, **arguments)
                if self.options.path and not isinstance(output, (torch.Tensor, Mapping)):
                    output = list(output)  # a generator runs here
        finally:
            self._generators = {**noise.generators, **self._generators}
        self._refuse_foreign(before, makes_rotations=FOREIGN in noise.making)
        self.seeds_itself |= torch.initial_seed() != seeded
        if not (noise.seen or torch.equal(cpu, torch.get_rng_state()) or _is_fresh()):
            found = "a sampler that moves torch's random state by code that draws around torch's operators"
            raise EquivProbeError(found, "noise from torch's operators", _FIX)
        if self.drawn is None:
            noise.require_allowed()
            self.drawn = noise.found()
        if noise.following is not None:
            noise.following.forget()
        self.noises.append(noise)
        return output

    def _refuse_foreign(self, before: tuple[Any, Any], *, makes_rotations: bool) -> None:
        """Note draws from NumPy's and Python's random states, and raise EquivProbeError unless they are allowed."""
        for name, was, now in zip(("NumPy", "Python"), before, _foreign_states(), strict=True):
            self.foreign_drawn |= was != now
            if was != now and self.options.foreign == "refuse":
                found = (
                    f"a sampler that draws from {name}'s global random state, which cannot be rotated with the frame"
                )
                found += "; rotation matrices were made of it" * makes_rotations
                raise EquivProbeError(found, "noise from torch", _FIX_ROTATIONS if makes_rotations else _FIX)


def _is_fresh() -> bool:
    """Whether nothing was drawn since torch's random state was seeded."""
    return torch.equal(torch.Generator().manual_seed(torch.initial_seed()).get_state(), torch.get_rng_state())


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
