"""One run of a sampler after the other, in this frame or that, with the same random numbers in each."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.initial_noise import stream
from equiv_probe.generative.noise import Noise, Randn
from equiv_probe.generative.noise_frame import Frame
from equiv_probe.live.capture import all_outputs, read_outputs
from equiv_probe.live.generators import put_back
from equiv_probe.representations.representation import point
from equiv_probe.schema.schema import Schema
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.noise import Rotates
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.structures import Structures

END_POINTS = "end points"
"""What a sampler's answer is called if it is one tensor."""
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
        path: whether the sampler answers with all that it passes by.
        rotates: whether a draw has a direction, see :class:`equiv_probe.generative.noise.Noise`.
        frames: whether random frames of a twirled network rotate ``"along"``.
        foreign: what becomes of noise from NumPy's and Python's random state.
        shared: whether all samples rotate alike.
        grad: run with gradients enabled.

    Attributes:
        noises: what the runs drew, in order.
    """

    sampler: Callable[..., Any]
    noise: Tensor
    structures: Structures
    outputs: Mapping[str, Representation]
    path: bool = False
    rotates: Rotates | None = None
    frames: Literal["along", "fixed"] = "along"
    foreign: Literal["refuse", "same"] = "refuse"
    shared: bool = False
    grad: bool = False
    noises: list[Noise] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._schema = Schema({"noise": point}, dict(self.outputs))
        self._resolved = False
        self._randn = _takes_randn(self.sampler)
        self._generators: dict[int, tuple[Any, Any]] = {}

    @property
    def schema(self) -> Schema:
        """The representations, all of them after the first run."""
        return self._schema

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
        frame = Frame(tuple(start.shape), self.structures, rotations, shared=self.shared, back=back)
        if rotations is not None:
            start = self.rotated(start, rotations)
            if back:
                start = self.rotated(start, rotations, back=True)
        answer = self._call(start.clone(), frame, seed)
        values = self._read(answer)
        if rotations is None or back:
            return values
        steps = len(next(iter(values.values())))
        return self.structures.rotate_back(values, self._schema, rotations.expand(steps, *rotations.shape))

    def put_back(self) -> None:
        """Undo what the sampler's own generators were asked for."""
        for generator, state in self._generators.values():
            put_back(generator, state)

    def rotated(self, noise: Tensor, rotations: Tensor, *, back: bool = False) -> Tensor:
        """Initial noise, rotated in float64 and rounded once."""
        wide = Schema({"noise": point}, {"noise": point})
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
        noise = Noise(frame, stream(seed, 2), self.rotates, along=self.frames == "along")
        arguments: dict[str, Any] = {self._randn: Randn(noise, start)} if self._randn else {}
        try:
            with torch.set_grad_enabled(self.grad), noise:
                answer = self.sampler(start, **arguments)
                if self.path and not isinstance(answer, (torch.Tensor, Mapping)):
                    answer = list(answer)  # a generator runs here
        finally:
            self._generators = {**noise.generators, **self._generators}
        for name, was, now in zip(("NumPy", "Python"), before, _foreign_states(), strict=True):
            if was != now and self.foreign == "refuse":
                found = (
                    f"a sampler that draws from {name}'s global random state, which cannot be rotated with the frame"
                )
                raise EquivProbeError(found, "noise from torch", _FIX)
        if not noise.seen and not torch.equal(cpu, torch.get_rng_state()):
            found = "a sampler that moves torch's random state by code that draws around torch's operators"
            raise EquivProbeError(found, "noise from torch's operators", _FIX)
        self.noises.append(noise)
        return answer

    def _read(self, answer: Any) -> dict[str, Tensor]:
        """An answer as detached float64 tensors ``(T, *S)`` by name."""
        steps = [self._first(one) for one in (_steps(answer) if self.path else [answer])]
        if not steps:
            raise EquivProbeError("a path without a point", "at least the end point", "path=False")
        if not self._resolved:
            self._schema, self._resolved = _resolve(steps[-1], self._schema), True
        names = list(self._schema.outputs)
        lone = isinstance(steps[-1], torch.Tensor)
        if lone and self.structures.layout != "one" and steps[-1].shape[1:] == self.noise.shape:
            found = f"end points of shape {tuple(steps[-1].shape)} from noise of shape {tuple(self.noise.shape)}"
            raise EquivProbeError(found, "the last point of the path alone", "path=True; or return path[-1]")
        read = [read_outputs({names[0]: one} if lone else one, self._schema) for one in steps]
        if any(one[name].shape != read[-1][name].shape for one in read for name in names):
            raise EquivProbeError("a path of points of several shapes", "one shape at all times", "path=False")
        return {name: torch.stack([one[name].detach().cpu().double().clone() for one in read]) for name in names}

    def _first(self, answer: Any) -> Any:
        """Of a tuple that is longer than what was declared, the first entries."""
        declared = list(self.outputs)
        by_place = isinstance(answer, (tuple, list)) and not hasattr(answer, "_fields")
        if not (by_place and 0 < len(declared) < len(answer)) or set(declared) <= set(map(str, range(len(answer)))):
            return answer
        return answer[0] if declared == [END_POINTS] else answer[: len(declared)]


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


def _steps(answer: Any) -> list[Any]:
    """A path as a list of what the sampler would answer at each time."""
    if isinstance(answer, torch.Tensor):
        return list(answer.unbind(0))
    if isinstance(answer, Mapping):
        return [dict(zip(answer, one, strict=True)) for one in zip(*answer.values(), strict=True)]
    if isinstance(answer, (list, tuple, Iterator)):
        return list(answer)
    raise EquivProbeError(f"a path of type {type(answer).__name__}", "a tensor (T, ...), or one entry for each time")


def _resolve(answer: Any, schema: Schema) -> Schema:
    """The representations of an answer: as declared, of one tensor a point, by their usual names, or else an error."""
    if isinstance(answer, torch.Tensor):
        declared = next(iter(schema.outputs.items()), (END_POINTS, point))
        return replace(schema, outputs=dict([declared]))
    values = {n: v for n, v in all_outputs(answer, list(schema.outputs)).items() if isinstance(v, torch.Tensor)}
    if schema.outputs and set(schema.outputs) <= set(values):
        return schema
    found = {name: usual(name, tuple(value.shape)) for name, value in values.items() if value.is_floating_point()}
    if not found:
        raise EquivProbeError(
            f"an answer of type {type(answer).__name__}",
            "end points as tensors: one, a tuple, or a dict",
            "ep.audit_sampler(lambda noise: sampler(noise).pos, ...)",
        )
    if isinstance(answer, (list, tuple)) and _molecules(list(found), values):
        raise EquivProbeError(
            f"a list of {len(found)} tensors (N, 3), one for each sample",
            "end points of all samples in one tensor",
            "ep.audit_sampler(lambda noise: torch.cat(sampler(noise)), ..., batch=batch), or torch.stack",
        )
    if missing := sorted(set(schema.outputs) - set(values)):
        raise EquivProbeError(
            f"end points {sorted(values)}",
            "representations by name" if missing == [END_POINTS] else f"{missing} among them",
            f'audit_sampler(..., outputs={{"{next(iter(found))}": ep.point}})',
        )
    unknown = [name for name, rep in found.items() if rep is None]
    if unknown:
        raise EquivProbeError(
            f"end points {sorted(values)}",
            f"how {unknown} rotate",
            'audit_sampler(..., outputs={"pos": ep.point, "<name>": ep.scalar})',
        )
    return replace(schema, outputs={name: rep for name, rep in found.items() if rep is not None})


def _molecules(names: list[str], values: Mapping[str, Tensor]) -> bool:
    """Whether all of several tensors are places of atoms, ``(N, 3)``."""
    return len(names) > 1 and all(values[name].ndim == 2 and values[name].shape[1] == 3 for name in names)
