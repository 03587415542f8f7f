"""Whether a kernel has the second derivatives that curvature needs: some say so, and some silently give none.

PyTorch leaves out of a second derivative what a custom ``autograd.Function`` marks with ``once_differentiable``, or
computes without its knowledge, and raises nothing. So the graph is searched for what says so, and a product of the
Hessian is compared with differences of gradients.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from equiv_probe.landscape.parameter_space import ParameterSpace

STEP = {8: 1e-4, 4: 3e-3}
"""Of differences, relative to the weights' length, by the bytes of a weight."""
ALIKE, APART = 0.1, 0.3
FLOORS = 16.0
"""Rounding of a difference, in units of the precision: below that it is nothing else."""
_ONCE = "torch::autograd::Error"
_UNKNOWN = re.compile(r"derivative for|differentiat\w+ twice|double backward", re.IGNORECASE)


def no_second_derivative(what: str) -> EquivProbeError:
    """What is raised for a kernel that can be differentiated once only."""
    return EquivProbeError(
        what,
        "a model that can be differentiated twice",
        "use the plain PyTorch form of that operation: not cdist, a compiled model, cuDNN's recurrent networks or a "
        "custom kernel without it",
    )


@contextmanager
def explained() -> Iterator[None]:
    """Say what PyTorch's errors of missing second derivatives mean here.

    Raises:
        EquivProbeError: in the place of such an error.
    """
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one
        if not _UNKNOWN.search(str(error)):
            raise
        raise no_second_derivative(str(error).splitlines()[0].rstrip(".")) from error


def require_no_marks(tensors: Sequence[Tensor | None]) -> None:
    """See that nothing in a graph is marked with ``once_differentiable``.

    Raises:
        EquivProbeError: something is.
    """
    todo: list[Any] = [tensor.grad_fn for tensor in tensors if tensor is not None]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == _ONCE:
            raise no_second_derivative("a function that is marked with @once_differentiable")
        todo += [following for following, _ in node.next_functions]


def disagreement(
    product: Tensor, gradient: Callable[[], Tensor], space: ParameterSpace, vector: Tensor
) -> float | None:
    """How far a product of the Hessian is from differences of gradients; None where these are not precise enough.

    Args:
        product: ``(size,)``.
        gradient: of the same loss, at the weights as they are when it is called.
        space: the weights, which have their old bits afterwards.
        vector: what was multiplied, ``(size,)``.

    Returns:
        ``‖product − differences‖`` over the longer of the two; None if differences over one step and over two are not
        alike.
    """
    reach = STEP.get(min(p.element_size() for p in space.tensors))
    length = space.here.norm()
    if reach is None or not float(length) > 0:
        return None
    step = float(reach * length / vector.norm())
    with space.walking() as walk:

        def over(t: float) -> Tensor:
            walk.to(t * vector)
            ahead = gradient()
            walk.to(-t * vector)
            return (ahead - gradient()) / (2 * t)

        near, far = over(step), over(2 * step)
    longer = float(max(near.norm(), product.norm()))
    if not longer > 0 or not float((near - far).norm()) <= ALIKE * float(near.norm()):
        return None
    return float((near - product).norm()) / longer
