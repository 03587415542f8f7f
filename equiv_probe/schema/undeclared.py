"""What could be several things and must be declared: all of it in one message, with the one line that declares it.

>>> print(together([UndeclaredError("inputs", "x", "inputs['x'], which could be several things", "ep.vector")]))
found inputs['x'], which could be several things; expected a declaration. Fix: ep.Schema(inputs={"x": ep.vector}, ...)
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class UndeclaredError(EquivProbeError):
    """One tensor that must be declared.

    Args:
        role: ``"inputs"`` or ``"outputs"``.
        name: of the tensor.
        found: what it could be.
        likely: the representation that it most likely carries, as code.
        more: what else the fix may say.
        expected: what is needed.
    """

    def __init__(
        self, role: str, name: str, found: str, likely: str, *, more: str = "", expected: str = "a declaration"
    ) -> None:
        self.role, self.name, self.likely = role, name, likely
        super().__init__(found, expected, f'ep.Schema({role}={{"{name}": {likely}}}, ...){more}')

    def __reduce__(self) -> tuple[type[EquivProbeError], tuple[str, str, str]]:
        return EquivProbeError, (self.found, self.expected, self.fix)


@contextmanager
def noted(problems: list[UndeclaredError]) -> Iterator[None]:
    """A context of one tensor, whose problem is added to the others."""
    try:
        yield
    except UndeclaredError as problem:
        problems.append(problem)


def together(problems: Sequence[UndeclaredError]) -> EquivProbeError:
    """One error for all that must be declared; a single one as it is."""
    if len(problems) == 1:
        return problems[0]
    lines = {role: [f'"{one.name}": {one.likely}' for one in problems if one.role == role] for role in _ROLES}
    listed = [f"{len(problems)} tensors that could be several things:", *(one.found for one in problems)]
    groups = ", ".join(f"{role}={{{', '.join(entries)}}}" for role, entries in lines.items() if entries)
    return EquivProbeError(
        "\n  ".join(listed) + "\n",
        "a declaration of each",
        f"ep.Schema({groups}, ...) as far as that is right; rest=ep.fixed leaves all other inputs as they are",
    )


_ROLES = ("inputs", "outputs")
