"""The share of a run's loss that broken symmetry makes, against the step, from what Lightning's CSV logger kept.

python integrations/schnetpack_training/share.py runs/unconstrained
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

NAMES = ("L_total", "L_equiv", "share", "share_stderr")


def curve(run: Path, stage: str = "train", output: str = "loss") -> list[tuple[int, dict[str, float]]]:
    """The logged estimates by step.

    Args:
        run: folder of a run, with ``csv/version_*/metrics.csv`` in it.
        stage: ``train``, ``val`` or ``test``.
        output: ``loss`` for the total, or the name of an output.
    """
    found = []
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        with file.open() as lines:
            for row in csv.DictReader(lines):
                values = {name: row.get(f"equiv/{stage}/{output}/{name}") for name in NAMES}
                if values["share"]:
                    found.append((int(row["step"]), {name: float(value or "nan") for name, value in values.items()}))
    return found


def main(run: Path, stage: str, output: str, rows: int) -> None:
    """Print about so many lines, evenly over the logarithm of the step."""
    found = curve(run, stage, output)
    if not found:
        raise SystemExit(f"no equiv/{stage}/{output}/share in {run}/csv/version_*/metrics.csv")
    steps = [step for step, _ in found]
    targets = [max(1, steps[0]) * (steps[-1] / max(1, steps[0])) ** (k / (rows - 1)) for k in range(rows)]
    chosen = sorted({min(range(len(steps)), key=lambda i: abs(steps[i] - target)) for target in targets})
    print(f"{run.name}: {stage}/{output}\n{'step':>7}{'L_total':>12}{'L_equiv':>12}{'share':>12}")
    for k in chosen:
        step, values = found[k]
        share = f"{100 * values['share']:.3g} %"
        error = f"± {100 * values['share_stderr']:.2g} %"
        print(f"{step:>7}{values['L_total']:>12.4g}{values['L_equiv']:>12.3g} {share:>11} {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", default="train")
    parser.add_argument("--output", default="loss")
    parser.add_argument("--rows", type=int, default=12)
    given = parser.parse_args()
    main(given.run, given.stage, given.output, given.rows)
