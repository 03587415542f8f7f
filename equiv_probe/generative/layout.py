"""How atoms and their three numbers lie in a sampler's tensors: ``(N, 3)``, or one after the other in a flat axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from torch import Tensor

_FORMS = ("(N 3)", "(3 N)", "3 N")
DECLARE_FLAT = (
    'audit_sampler(..., layout="B (N 3)") where x, y, z of one atom follow those of the other, "B (3 N)" where all x '
    "come first"
)
DECLARE_LAST = 'audit_sampler(..., layout="B 3 N")'


@dataclass(frozen=True)
class Layout:
    """A layout other than ``(..., N, 3)``: of the noise, of draws and of end points.

    Attributes:
        form: ``"(N 3)"``, x, y and z of one atom after those of the other; ``"(3 N)"``, all x first, then all y;
            ``"3 N"``, an axis of atoms after one of x, y, z.
        atoms: N.
        of_noise: whether the initial noise is laid out so, and not draws and end points alone.
    """

    form: str
    atoms: int
    of_noise: bool = True

    @classmethod
    def of(cls, written: str, shape: tuple[int, ...]) -> Layout:
        """The layout that was declared, for noise of a shape, which is laid out so or as ``(..., N, 3)``.

        Raises:
            EquivProbeError: no such layout, or the noise is laid out in no way that fits.
        """
        form = " ".join(written.split()).removeprefix("B ")
        if form not in _FORMS:
            expected = ", ".join(f'"B {one}"' for one in _FORMS)
            raise EquivProbeError(f"layout={written!r}", f"one of {expected}", 'layout="B (N 3)"')
        columns = shape[-2:-1] == (3,)
        if len(shape) > 1 and shape[-1] == 3 and not (form == "3 N" and columns):
            return cls(form, shape[-2], of_noise=False)
        atoms = shape[-1] * columns if form == "3 N" else shape[-1] // 3 * (shape[-1] % 3 == 0)
        if not atoms:
            raise EquivProbeError(
                f"noise of shape {shape} with layout={written!r}", "a flat axis of 3 N numbers, or axes (3, N)"
            )
        return cls(form, atoms)

    @property
    def tail(self) -> tuple[int, ...]:
        """The last axes of a tensor that is laid out so."""
        return (3, self.atoms) if self.form == "3 N" else (3 * self.atoms,)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape is laid out so."""
        return shape[-len(self.tail) :] == self.tail

    def usual_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(..., N, 3)`` for a shape that fits, another as it is."""
        return (*shape[: -len(self.tail)], self.atoms, 3) if self.fits(shape) else shape

    def usual(self, values: Tensor) -> Tensor:
        """Values that are laid out so as ``(..., N, 3)``."""
        if self.form == "(N 3)":
            return values.reshape(*values.shape[:-1], self.atoms, 3)
        return (values.reshape(*values.shape[:-1], 3, self.atoms) if self.form == "(3 N)" else values).mT

    def back(self, values: Tensor) -> Tensor:
        """Undo :meth:`usual`, in memory as a sampler would have drawn it."""
        if self.form == "(N 3)":
            return values.flatten(-2)
        return (values.mT.flatten(-2) if self.form == "(3 N)" else values.mT).contiguous()
