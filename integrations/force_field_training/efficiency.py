"""Which force field has the lower loss for the same time of the device, and where that changes.

    python integrations/force_field_training/efficiency.py --config small --first augmented --second painn

reads the table that `study.py` wrote. Intervals are over held-out structures; one training each.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from study import RESULTS

from equiv_probe.scaling import gap, read_table, table_of

if TYPE_CHECKING:
    from equiv_probe.scaling import Gap, Table


def curve(table: Table, run: str) -> Table:
    """Held-out squared force error of one run, from its first step on.

    Args:
        table: as `study.py` writes it.
        run: name.
    """
    rows = table.where(run=run, part="held", output="forces", loss="mse")
    begun = rows["step"] > 0
    return table_of({key: rows[key][begun] for key in ("step", "seconds", "L_total", "L_total_stderr")})


def compared(config: str, first: str, second: str, x: str = "seconds") -> Gap:
    """The efficiency gap between two runs of one configuration.

    Args:
        config: its name.
        first: a run.
        second: another.
        x: what is spent: ``"seconds"`` of the device, or ``"step"``.
    """
    table = read_table(RESULTS / f"{config}_steps.csv")
    return gap(curve(table, first), curve(table, second), x, names=(first, second), smooth="none")


def main() -> None:
    """Compare by time and by step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--first", default="augmented")
    parser.add_argument("--second", default="painn")
    args = parser.parse_args()
    for x in ("seconds", "step"):
        print(compared(args.config, args.first, args.second, x))


if __name__ == "__main__":
    main()
