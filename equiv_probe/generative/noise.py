"""The random numbers of one run of a sampler: the same in every frame, and rotated with it where they have a direction.

Every operator of torch that draws at random is seen as it reaches the dispatcher, also in scripted and compiled code,
with any generator. Normal draws that are laid out like the noise come from one seeded source instead, and are rotated;
all others stay as they are: the states that they come from are put back for every run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.drawn_rotations import Following
from equiv_probe.generative.noise_frame import Draw
from equiv_probe.generative.refused_draws import (
    belongs_to_no_sample,
    is_fresh,
    is_random,
    laid_out_otherwise,
    not_isotropic,
)
from equiv_probe.generative.sampler_code import sampler_code
from equiv_probe.live.random_frames import FOLLOWED_BY
from equiv_probe.live.random_state import state_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from torch import Tensor

    from equiv_probe.generative.drawn_rotations import Made, Way
    from equiv_probe.generative.noise_frame import Frame

    Rotates = Callable[[Draw], bool | None]

NORMAL = {"randn", "randn_like", "normal", "normal_", "normal_functional"}
"""Operators whose draws are isotropic: rotated ones are as likely."""


@dataclass(frozen=True)
class Drawn:
    """Which of the rotations that the first run made of draws are used, and the draws that they were made of."""

    targets: frozenset[int] = frozenset()
    draws: frozenset[int] = frozenset()


class Noise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which the random draws of a sampler are the same in every frame, and rotated with it.

    Args:
        frame: the rotations.
        seed: of the source of draws that rotate.
        rotates: says whether a draw has a direction; None, or its None, goes by the shape.
        along: whether random frames of :class:`equiv_probe.Twirled` rotate along.
        start: the initial noise as the sampler sees it; None does not look for drawn rotations.
        drawn: what the first run showed of them; None in the first run, which waits with refusing a draw to its end.
        way: how drawn rotations go with the frame.
        foreign: whether NumPy or Python have drawn in this run.

    ``sequence`` holds calls and shapes in order, ``generators`` those of the sampler's own and their states before;
    ``frames`` counts sets of random frames, ``seen`` the operators that may draw; ``unaligned`` are shapes of drawn
    rotations that do not say to which samples they belong.
    """

    def __init__(
        self,
        frame: Frame,
        seed: int,
        rotates: Rotates | None = None,
        *,
        along: bool = True,
        start: Tensor | None = None,
        drawn: Drawn | None = None,
        way: Way = "same",
        foreign: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.frame, self._rotates, self._along, self._drawn, self._way = frame, rotates, along, drawn, way
        self._source = torch.Generator().manual_seed(seed)
        self._taken: list[tuple[Draw, bool, int]] = []
        self._refused: dict[int, EquivProbeError] = {}
        self.sequence: list[tuple[str, tuple[int, ...]]] = []
        self.generators: dict[int, tuple[Any, Any]] = {}
        self.frames = self.seen = 0
        self.declared: bool | None = None
        self.unfollowed = False
        self._tokens: list[Token[Any]] = []
        self.following = None if start is None else Following(start, lambda: sampler_code()[0], self._made, foreign)
        self.unaligned: list[tuple[int, ...]] = []

    @property
    def draws(self) -> Counter[tuple[Draw, bool]]:
        """How often each draw was made, by draw and whether it rotated."""
        making = self.making
        return Counter((draw, rotated and ordinal not in making) for draw, rotated, ordinal in self._taken)

    @property
    def making(self) -> frozenset[int]:
        """Ordinals of draws that become rotations."""
        return self._drawn.draws if self._drawn is not None else self.found().draws

    @property
    def started(self) -> set[bytes]:
        """States in which generators of torch's that are the sampler's own were first used in this run."""
        states = [state for _, state in self.generators.values() if isinstance(state, torch.Tensor)]
        return {state.cpu().numpy().tobytes() for state in states}

    def found(self) -> Drawn:
        """What this run showed of draws that become rotations."""
        if self.following is None:
            return Drawn()
        targets = frozenset(self.following.targets())
        return Drawn(targets, frozenset().union(*(self.following.made[k].draws for k in targets)))

    @property
    def rotations(self) -> list[Made]:
        """Rotations that the sampler drew in this run and uses."""
        made = self.following.made if self.following is not None else []
        return [made[place] for place in sorted((self._drawn or self.found()).targets) if place < len(made)]

    def require_allowed(self) -> None:
        """Raise EquivProbeError for the first draw that cannot be rotated and has become no rotation."""
        left = [ordinal for ordinal in self._refused if ordinal not in self.making]
        if left:
            raise self._refused[min(left)]

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

    def declared_rotations(self, drawn: Tensor, way: Way) -> Tensor:
        """Rotations ``(*S, 3, 3)`` that the sampler asked for by name, in this frame."""
        draw = Draw("orientations" if way == "left" else "rotations", tuple(drawn.shape), sampler_code()[0])
        axis = self.frame.axis_of_matrices(draw.shape)
        if axis is None:
            raise belongs_to_no_sample(draw, self.frame.shape)
        self._taken.append((draw, True, -1))
        return self.frame.carried(drawn, axis, way)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operator comes by here."""
        kwargs = kwargs or {}
        following = None if self.unfollowed else self.following
        if following is not None:
            following.before(args, kwargs)
        if torch.Tag.nondeterministic_seeded not in func.tags:
            output = func(*args, **kwargs)
            return output if following is None else following.after(func, args, kwargs, output)
        self.seen += 1
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        generator = given.get("generator")
        if generator is not None and id(generator) not in self.generators:
            self.generators[id(generator)] = (generator, state_of(generator))
        output = func(*args, **kwargs)
        drawn = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(drawn, torch.Tensor) and is_random(given):
            call = func._schema.name.removeprefix("aten::")
            place, ours = sampler_code()
            if ours:
                return output  # frames of a twirled network, from a generator of its own
            if drawn.is_floating_point() or self.frame.only_moves:
                self._take(Draw(call, tuple(drawn.shape), place), drawn, given)
            if following is not None:
                following.drew(call, drawn, self.seen, given)
        return output

    def _made(self, number: int, matrices: Tensor) -> None:
        """Rotations were made of draws: take those that the sampler uses along with the frame."""
        if self._drawn is None or number not in self._drawn.targets:
            return
        axis = self.frame.axis_of_matrices(tuple(matrices.shape))
        if axis is None:
            self.unaligned.append(tuple(matrices.shape))
        elif self._way != "same":
            with torch.no_grad():
                matrices.copy_(self.frame.carried(matrices, axis, self._way))

    def _take(self, draw: Draw, drawn: Tensor, given: dict[str, Any]) -> None:
        """Note a draw; put rotated numbers of the source in the place of those with a direction, or refuse to."""
        makes_rotations = self._drawn is not None and self.seen in self._drawn.draws
        axis = None
        try:
            axis = self._axis_of(draw, given)
        except EquivProbeError as error:
            if self._drawn is not None and not makes_rotations:
                raise
            self._refused[self.seen] = error
        self.sequence.append((draw.call, draw.shape))
        self._taken.append((draw, axis is not None, self.seen))
        if axis is None:
            return
        with torch.no_grad():
            if draw.call in NORMAL and drawn.is_floating_point():
                fresh = torch.randn(drawn.shape, generator=self._source, dtype=torch.float64).to(drawn.dtype)
                mean, std = given.get("mean", 0.0), given.get("std", 1.0)
                fresh = fresh if makes_rotations else self.frame.rotate(fresh, axis)
                drawn.copy_(mean + std * fresh.to(drawn.device))
            elif not makes_rotations:
                drawn.copy_(self.frame.rotate(drawn, axis))

    def _axis_of(self, draw: Draw, given: dict[str, Any]) -> int | None:
        """Along which axis a draw rotates, None if it does not; raises EquivProbeError if it should and cannot."""
        axis = self._axis(draw)
        if axis is None:
            if draw.call in NORMAL and self._said(draw) is None and self.frame.disguised(draw.shape):
                raise laid_out_otherwise(draw, self.frame)
            return None
        alike = self.frame.only_moves and is_fresh(draw.call, given)
        if draw.call not in NORMAL and not alike:
            raise not_isotropic(draw)
        return axis

    def _said(self, draw: Draw) -> bool | None:
        """What the user says of a draw."""
        return self.declared if self.declared is not None else (self._rotates(draw) if self._rotates else None)

    def _axis(self, draw: Draw) -> int | None:
        """Along which axis a draw rotates; None if it does not."""
        said = self._said(draw)
        if said is False:
            return None
        axis = self.frame.axis(draw.shape)
        # One direction for all samples, or any that were said to be some.
        single = draw.call in NORMAL and prod(draw.shape) == 3 and not self.frame.rep.is_whole
        if axis is None and draw.shape[-1:] == (3,) and (said or (said is None and single)):
            axis = -1
        if said and axis is None:
            raise EquivProbeError(f"rotates=True for {draw}", "a last axis of 3", "rotates=None goes by the shape")
        if axis == -1 and not self.frame.shared:
            raise belongs_to_no_sample(draw, self.frame.shape)
        return 0 if axis == -1 else axis
