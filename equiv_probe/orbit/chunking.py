"""Evaluation in chunks that shrink when memory runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def in_chunks(evaluate: Callable[[int, int], T], count: int, chunk: int) -> Iterator[T]:
    """Evaluate ``range(count)`` in chunks ``[start, stop)``; running out of memory halves the chunk and carries on.

    Raises:
        EquivProbeError: one item alone does not fit.
    """
    start = 0
    while start < count:
        stop = min(start + chunk, count)
        result = unless_out_of_memory(lambda a=start, b=stop: evaluate(a, b))  # type: ignore[misc]
        if result is None:
            if stop - start == 1:
                raise EquivProbeError(
                    "a single copy that does not fit in memory", "a smaller structure, or more memory"
                )
            chunk = (stop - start) // 2
            continue
        yield result
        start = stop


def unless_out_of_memory(evaluate: Callable[[], T]) -> T | None:
    """What ``evaluate`` returns, or None where memory ran out, once what it held is free again."""
    try:
        return evaluate()
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except block: the exception's traceback holds the tensors that must be freed first.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
