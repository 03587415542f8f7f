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

    Args:
        evaluate: called with start and stop.
        count: how many items there are.
        chunk: how many to try at first.

    Raises:
        EquivProbeError: one item alone does not fit.
    """
    start = 0
    while start < count:
        stop = min(start + chunk, count)
        failed = False
        try:
            result = evaluate(start, stop)
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        # Outside the except block: the exception's traceback holds the tensors that must be freed first.
        if failed:
            if stop - start == 1:
                raise EquivProbeError(
                    "a single copy that does not fit in memory", "a smaller structure, or more memory"
                )
            chunk = (stop - start) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield result
        start = stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
