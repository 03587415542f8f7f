"""Everything that needs a GPU, in under eight minutes: the tests marked ``gpu``, then the benchmarks, as one table.

    make gpu-check
    python tests/benchmarks/gpu_check.py [--output gpu-check.md] [--minutes 8]

Exit codes: 0 all passed, 1 something failed or ran out of time, 3 there is no GPU and nothing was checked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NO_GPU = 3
BENCHMARKS = {
    "bench_probe.py": (),
    "bench_grids.py": ("--voxels", "64"),
    "bench_sampler.py": ("--steps", "300", "--samples", "64"),
    "bench_curvature.py": ("--structures", "16"),
}


@dataclass
class Row:
    """One line of the table."""

    name: str
    outcome: str
    seconds: float
    says: str = ""

    @property
    def failed(self) -> bool:
        """Whether it makes the whole check fail; a test may be skipped, and then the table says why."""
        return self.outcome not in {"passed", "skipped"}


def run(command: list[str], seconds: float) -> tuple[int | None, str, float]:
    """Exit code (None where time ran out), output, and time taken of a command."""
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(1.0, seconds), check=False
        )
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
        return None, out.decode() if isinstance(out, bytes) else out, time.monotonic() - began
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def tests(seconds: float) -> list[Row]:
    """A row for each test marked ``gpu``."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        given = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junit-xml={results}", "tests"]
        code, out, took = run([sys.executable, "-m", "pytest", *given], seconds)
        if code is None or not results.exists():
            outcome = "out of time" if code is None else f"exit code {code}"
            return [Row("pytest -m gpu", outcome, took, out.strip().splitlines()[-1] if out.strip() else "")]
        rows = [_row(case) for case in ET.parse(results).getroot().iter("testcase")]
    if not any(row.outcome == "passed" for row in rows):
        rows.append(Row("pytest -m gpu", "nothing passed", took))
    return rows


def _row(case: ET.Element) -> Row:
    name = f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
    for kind, outcome in (("failure", "FAILED"), ("error", "ERROR"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            return Row(name, outcome, float(case.get("time", 0)), (found.get("message") or "").splitlines()[0])
    return Row(name, "passed", float(case.get("time", 0)))


def benchmark(name: str, arguments: tuple[str, ...], seconds: float) -> tuple[Row, str]:
    """The row of a benchmark, and what it printed."""
    if seconds < 5:
        return Row(name, "out of time", 0.0), ""
    code, out, took = run([sys.executable, str(HERE / name), "--device", "cuda", *arguments], seconds)
    outcome = {0: "passed", None: "out of time"}.get(code, f"exit code {code}")
    return Row(name, outcome, took), out.strip()


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| check | outcome | seconds | |", "|---|---|---|---|"]
    lines += [f"| `{r.name}` | {r.outcome} | {r.seconds:.1f} | {r.says.replace('|', '¦')} |" for r in rows]
    return "\n".join(lines)


def main() -> int:
    """Run all, write the table; see above for what is returned."""
    parser = argparse.ArgumentParser(description="Tests and benchmarks that need a GPU, as one table.")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.md"))
    parser.add_argument("--minutes", type=float, default=8.0, help="in all; what does not fit is said to be left out")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"No GPU: torch {torch.__version__} sees no CUDA device, so nothing was checked.", file=sys.stderr)
        return NO_GPU
    deadline = time.monotonic() + 60 * given.minutes - 10
    rows = tests(0.6 * 60 * given.minutes)
    printed = []
    for name, arguments in BENCHMARKS.items():
        row, out = benchmark(name, arguments, deadline - time.monotonic())
        rows.append(row)
        printed.append(f"## {name} {' '.join(arguments)}\n\n```\n{out}\n```")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(row.outcome for row in rows).items())
    seconds = sum(row.seconds for row in rows)
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    text = "\n\n".join([f"# GPU check\n\n{device}\n\n{counts}, {seconds:.0f} s", table(rows), *printed])
    given.output.write_text(text + "\n", encoding="utf-8")
    print(f"{counts}, {seconds:.0f} s on {device}\nTable: {given.output.resolve()}")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
