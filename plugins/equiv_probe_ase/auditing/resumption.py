"""Before an audit goes on from old results: what is left, and whether the model still gives what it gave then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger
from equiv_probe_ase.auditing.judgement import rounding_in
from equiv_probe_ase.structures.quantities import size_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.crew import Crew
    from equiv_probe_ase.auditing.journal import Journal
    from equiv_probe_ase.auditing.subject import Findings, Subject
    from equiv_probe_ase.structures.loading import Structure

ROUNDING = 100.0
"""Times the floors that another run, on another machine perhaps, may differ by."""


def left_to_do(book: Journal, windows: Sequence[Sequence[Structure]], crew: Crew, findings: Findings) -> list[Any]:
    """The windows that are not in a journal yet, once the journal is known to be this model's.

    What failed is tried again, alone: the reason may have been the machine's. A window of which a kill has left a part
    is measured once more as a whole, since last digits may depend on what shares a batch. Weights and code that no
    digest sees (arrays of NumPy, JSON, an imported module) are seen by what they do: the smallest structure is
    evaluated once more.

    Raises:
        EquivProbeError: the model says something else now.
    """
    mine = [one for window in windows for one in window]
    done = [one for one in mine if one.key in book and one.key not in book.failed]
    for note in book.notes:
        logger.warning(note)
    if done:
        smallest = min(done, key=lambda one: len(one.atoms))
        _require_same(smallest, book[smallest.key]["quantities"], crew, findings, book)
        print(f"equiv_probe: resumed {len(done)} of {len(mine)} structures from {book.path}", file=sys.stderr)
    left = []
    for window in windows:
        whole = any(one.key not in book for one in window)
        left.append([one for one in window if whole or one.key in book.failed])
    return [window for window in left if window]


def outputs_of(subject: Subject, structure: Structure, names: Sequence[str]) -> dict[str, Any] | None:
    """What a calculator gives for a structure as it is; None if it fails."""
    try:
        (found,) = subject.engine.evaluator.evaluate([structure.atoms], names)
    except (Exception, SystemExit):  # which comes up again where it is reported
        return None
    return found


def _require_same(
    structure: Structure, known: Mapping[str, Any], crew: Crew, findings: Findings, book: Journal
) -> None:
    marked = {n: v for n, v in known.items() if v.get("plain") and n in findings.quantities and not v.get("noise")}
    now = crew.ask(outputs_of, structure, list(marked)) if marked else None  # none of a model that varies
    if now is None:
        return
    for name, values in marked.items():
        found = findings.quantities[name].values(now[name], structure.atoms)
        mark = np.array([found.mean(), size_of(found)])
        if np.abs(mark - values["plain"]).max() > ROUNDING * rounding_in(values):
            which = int(found.ndim > 0)  # the number itself, or the size of a vector
            unit = findings.quantities[name].unit
            is_now, was = f"{mark[which]:.7g} {unit}", f"{values['plain'][which]:.7g}"
            raise EquivProbeError(
                f"{book.path} with results of another model: {name} of {structure.name} is {is_now} now and was {was} "
                "then (weights or code have changed)",
                "the model that it was begun with",
                "another -o, or --fresh to start over",
            )
