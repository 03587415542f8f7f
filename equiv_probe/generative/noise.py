"""The random numbers of one run of a sampler: the same in every frame, and rotated with it where they have a direction.

Every operator of torch that draws at random is seen as it reaches the dispatcher, also in scripted and compiled code,
with any generator. Normal draws that are laid out like the noise come from one seeded source instead, and are rotated;
all others stay as they are: the states that they come from are put back for every run.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equiv_probe import deprecation
from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.noise_frame import Draw
from equiv_probe.live.generators import state_of
from equiv_probe.live.random_frames import FOLLOWED_BY
from equiv_probe.rotations import plan as rotations

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from torch import Tensor

    from equiv_probe.generative.noise_frame import Frame

    Rotates = Callable[[Draw], bool | None]

NORMAL = {"randn", "randn_like", "normal", "normal_", "normal_functional"}
"""Operators whose draws are isotropic: rotated ones are as likely."""
_OURS, _ROTATIONS, _TORCH = (
    str(folder) + os.sep
    for folder in (Path(__file__).parents[1], Path(rotations.__file__).parent, Path(torch.__file__).parent)
)
_ON_THE_WAY = {__file__, deprecation.__file__}
"""What stands between a sampler's line and the draw that it asks for."""


class Noise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which the random draws of a sampler are the same in every frame, and rotated with it.

    Args:
        frame: the rotations.
        seed: of the source of draws that rotate.
        rotates: says whether a draw has a direction; None, or its None, goes by the shape.
        along: whether random frames of :class:`equiv_probe.Twirled` rotate along.

    Attributes:
        draws: how often each draw was made, by draw and whether it rotated.
        sequence: calls and shapes in order.
        generators: of the sampler's own that it drew from, and their states before.
        frames: how many sets of random frames were drawn.
        seen: how many operators were seen that may draw at random.
    """

    def __init__(self, frame: Frame, seed: int, rotates: Rotates | None = None, *, along: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.frame, self._rotates, self._along = frame, rotates, along
        self._source = torch.Generator().manual_seed(seed)
        self.draws: Counter[tuple[Draw, bool]] = Counter()
        self.sequence: list[tuple[str, tuple[int, ...]]] = []
        self.generators: dict[int, tuple[Any, Any]] = {}
        self.frames = self.seen = 0
        self.declared: bool | None = None
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> Noise:
        self._tokens.append(FOLLOWED_BY.set(self.frames_along))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        FOLLOWED_BY.reset(self._tokens.pop())

    def frames_along(self, rotations: Tensor) -> Tensor:
        """See :func:`rotated_along`."""
        self.frames += 1
        return self.frame.along(rotations) if self._along else rotations

    def rotated_from_left(self, orientations: Tensor) -> Tensor:
        """Orientations ``(*S, 3, 3)`` in this frame, ``g R``."""
        draw = Draw("orientations", tuple(orientations.shape), _where()[0])
        axis = self._axis(Draw(draw.call, draw.shape[:-1], draw.where))
        self.draws[draw, axis is not None] += 1
        return orientations if axis is None else self.frame.rotate(orientations.mT, axis).mT

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operator comes by here."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.seen += 1
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        generator = given.get("generator")
        if generator is not None and id(generator) not in self.generators:
            self.generators[id(generator)] = (generator, state_of(generator))
        answer = func(*args, **kwargs)
        drawn = answer[0] if isinstance(answer, (tuple, list)) else answer
        if isinstance(drawn, torch.Tensor) and drawn.is_floating_point() and _is_random(given):
            self._take(func._schema.name.removeprefix("aten::"), drawn, given)
        return answer

    def _take(self, call: str, drawn: Tensor, given: dict[str, Any]) -> None:
        """Note a draw; put rotated numbers of the source in the place of those with a direction, or refuse to."""
        place, ours = _where()
        if ours:
            return  # frames of a twirled network, from a generator of its own
        draw = Draw(call, tuple(drawn.shape), place)
        axis = self._axis(draw)
        self.sequence.append((call, draw.shape))
        self.draws[draw, axis is not None] += 1
        if axis is None:
            if call in NORMAL and self._said(draw) is None and self.frame.disguised(draw.shape):
                raise _laid_out_otherwise(draw, self.frame.shape)
            return
        if call not in NORMAL:
            raise _not_isotropic(draw)
        with torch.no_grad():
            fresh = torch.randn(drawn.shape, generator=self._source, dtype=torch.float64).to(drawn.dtype)
            fresh = self.frame.rotate(fresh, axis)
            mean, std = given.get("mean", 0.0), given.get("std", 1.0)
            drawn.copy_(mean + std * fresh.to(drawn.device))

    def _said(self, draw: Draw) -> bool | None:
        """What the user says of a draw."""
        return self.declared if self.declared is not None else (self._rotates(draw) if self._rotates else None)

    def _axis(self, draw: Draw) -> int | None:
        """Along which axis a draw rotates; None if it does not."""
        said = self._said(draw)
        if said is False:
            return None
        axis = self.frame.axis(draw.shape)
        if said and (axis is None and draw.shape[-1:] == (3,)):
            axis = -1
        if said and axis is None:
            raise EquivProbeError(f"rotates=True for {draw}", "a last axis of 3", "rotates=None goes by the shape")
        if axis == -1 and not self.frame.shared:
            raise EquivProbeError(
                f"{draw}, which does not say to which sample of {self.frame.shape} it belongs",
                "noise for all samples at once, or one rotation for all of them",
                "audit_sampler(..., per_sample=False); or, if it is no direction, rotates=lambda draw: False",
            )
        return 0 if axis == -1 else axis


class Randn:
    """The source of later noise that a sampler may take as its second argument: ``randn(shape)``.

    Args:
        noise: of the run.
        like: shows precision and device.
    """

    def __init__(self, noise: Noise, like: Tensor) -> None:
        self._noise, self._like = noise, like

    @renamed(turns="rotates")
    def __call__(
        self,
        *shape: Any,
        rotates: bool | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Standard normal numbers.

        Args:
            shape: as numbers, as one tuple, or a tensor of that shape.
            rotates: whether they are directions in space; None goes by the shape.
            dtype: None is that of the initial noise.
            device: None is that of the initial noise.
        """
        self._noise.declared = rotates
        try:
            return torch.randn(_size(shape), dtype=dtype or self._like.dtype, device=device or self._like.device)
        finally:
            self._noise.declared = None

    def orientations(
        self, *shape: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Uniformly distributed orientations ``(*shape, 3, 3)``, which rotate from the left, ``R ↦ g R``.

        Args:
            shape: of the frames: samples, or samples and residues.
            dtype: None is that of the initial noise.
            device: None is that of the initial noise.
        """
        size = _size(shape)
        drawn = rotations.from_quaternions(self(*size, 4, rotates=False, dtype=torch.float64, device="cpu"))
        drawn = self._noise.rotated_from_left(drawn.to(dtype or self._like.dtype))
        return drawn.to(device or self._like.device)


def _size(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as numbers, as one tuple, or as a tensor of that shape."""
    size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return tuple(size.shape) if isinstance(size, torch.Tensor) else tuple(size)


def _is_random(given: dict[str, Any]) -> bool:
    """Whether an operator's arguments leave anything to chance: dropout that is off does not."""
    if given.get("train") is False or given.get("training") is False or given.get("dropout_p") == 0:
        return False
    return not (isinstance(given.get("p"), (int, float)) and given["p"] in {0, 1})


def _not_isotropic(draw: Draw) -> EquivProbeError:
    return EquivProbeError(
        f"{draw}: numbers laid out like the noise that are not normal, and so have other odds once they are rotated",
        "normal noise, the same in law in every frame",
        "torch.randn for noise on positions; model.eval() if it is dropout; rotates=lambda draw: False if these "
        "numbers are no directions",
    )


def _laid_out_otherwise(draw: Draw, shape: tuple[int, ...]) -> EquivProbeError:
    return EquivProbeError(
        f"{draw}: as many numbers as the noise of shape {shape}, laid out otherwise, so that they cannot be rotated",
        "directions along the last axis",
        f"torch.randn{shape}, and put its axes in order afterwards; rotates=lambda draw: False if these numbers are no "
        "directions",
    )


def _where() -> tuple[str, bool]:
    """File and line of the innermost code that is not torch's nor of an audit, and whether it draws our rotations."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_TORCH) and file not in _ON_THE_WAY:
            if file.startswith(_OURS):
                return "", file.startswith(_ROTATIONS)
            return f"{Path(file).name}:{frame.f_lineno}", False
        frame = frame.f_back  # type: ignore[assignment]
    return "", False
