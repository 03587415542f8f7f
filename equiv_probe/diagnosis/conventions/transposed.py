"""Three vectors as columns where they should be rows: of an input, such as the cell, or of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.representations.representation import vector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

INPUT, OUTPUT = "input transposed", "output transposed"
_ADVICE = (
    "Vectors are rows here, as in ASE and in positions (N, 3): a1 = cell[0], and Cartesian = fractional @ cell. "
    "Transpose once where the model takes columns. Cells that are symmetric matrices hide it until they are rotated."
)


@experiment(INPUT, "conventions", "Are the vectors of an input, such as the cell, read as columns?", cost=FEW + 1)
def input_transposed(subject: Subject) -> Findings:
    """Give the model each square input transposed, after it was rotated as it should be."""
    names = [name for name in subject.schema.inputs if _is_square(subject, name)]
    if not names:
        raise NotApplicable("no input that rotates is three vectors in a matrix")
    for given in names:
        after = subject.again(predict=_with_transposed(subject.predict, given))
        for name in subject.broken:
            best = subject.compare(name, after[name], candidates=len(names))
            sentence = (
                f"{name!r} rotates as it should if {given!r} is given transposed: its vectors are read as columns"
            )
            yield finding(INPUT, name, best, sentence, _ADVICE, exact=True)


@experiment(OUTPUT, "conventions", "Are the vectors of an output given as columns?", cost=0)
def output_transposed(subject: Subject) -> Findings:
    """Rotate back three vectors as columns. Of a tensor of rank two this changes nothing."""
    names = [n for n in subject.broken if subject.schema.outputs[n] == vector and _ends_square(subject.values[n][0])]
    if not names:
        raise NotApplicable("no broken output is three vectors in a matrix")
    for name in names:
        back = vector.rotate_back(subject.raw(name).mT, subject.rotations)
        sentence = f"{name!r} rotates as it should with rows and columns exchanged: it has its vectors as columns"
        yield finding(OUTPUT, name, subject.compare(name, back), sentence, _ADVICE, exact=True)


def _is_square(subject: Subject, name: str) -> bool:
    return not subject.schema.inputs[name].is_affine and _ends_square(subject.inputs[name])


def _ends_square(values: Tensor) -> bool:
    return tuple(values.shape[-2:]) == (3, 3)


def _with_transposed(predict: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    def changed(inputs: Mapping[str, Any]) -> Any:
        return predict({**inputs, name: inputs[name].mT.contiguous()})

    return changed
