"""Before an audit goes on from old results: whether the model still gives for one structure what it gave then."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.auditing.judgement import rounding_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from equiv_probe_ase.auditing.journal import Journal
    from equiv_probe_ase.auditing.subject import Subject
    from equiv_probe_ase.structures.loading import Structure

ROUNDING = 100.0
"""Times the floors that another run, on another machine perhaps, may differ by."""


def left_to_do(book: Journal, structures: Sequence[Structure], subject: Subject) -> list[Structure]:
    """The structures that are not in a journal yet, once the journal is known to be this model's.

    What failed is tried again: the reason may have been the machine's. Weights and code that no digest sees (arrays of
    NumPy, JSON, an imported module) are seen by what they do: the smallest structure is evaluated once more.

    Raises:
        EquivProbeError: the model says something else now.
    """
    done = [one for one in structures if "error" not in book.records.get(one.key, {"error": "not measured yet"})]
    if done:
        smallest = min(done, key=lambda one: len(one.atoms))
        _require_same(smallest, book.records[smallest.key]["quantities"], subject, book)
        print(f"equiv_probe: resumed {len(done)} of {len(structures)} structures from {book.path}", file=sys.stderr)
    known = {one.key for one in done}
    return [one for one in structures if one.key not in known]


def _require_same(structure: Structure, known: Mapping[str, Any], subject: Subject, book: Journal) -> None:
    marked = {n: v for n, v in known.items() if v.get("plain") and n in subject.quantities and not v.get("noise")}
    if not marked:  # of an older journal, or of a model that varies from call to call
        return
    try:
        (now,) = subject.engine.evaluator.evaluate([structure.atoms], list(marked))
    except (Exception, SystemExit):  # which is another matter, and comes up where it is reported
        return
    for name, values in marked.items():
        found = subject.quantities[name].values(now[name], structure.atoms)
        mark = np.array([found.mean(), np.sqrt(np.mean(np.square(found)))])
        if np.abs(mark - values["plain"]).max() > ROUNDING * rounding_in(values):
            which = int(found.ndim > 0)  # the number itself, or the size of a vector
            is_now, was = f"{mark[which]:.7g} {subject.quantities[name].unit}", f"{values['plain'][which]:.7g}"
            raise EquivProbeError(
                f"{book.path} with results of another model: {name} of {structure.name} is {is_now} now and was {was} "
                "then (weights or code have changed)",
                "the model that it was begun with",
                "another -o, or --fresh to start over",
            )
