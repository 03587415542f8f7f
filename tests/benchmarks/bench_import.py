"""What importing costs: processor time of fresh interpreters, the smallest of several.

python tests/benchmarks/bench_import.py

Aims: `import equiv_probe` at most 0.5 s over `import torch`, `equiv-probe --version` at most 0.3 s and without torch.
The first start after an installation compiles bytecode and reads from a cold disk; the smallest of five does not.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

COMMAND = "import sys; from equiv_probe.cli.main import main; sys.argv = ['equiv-probe', {!r}]; main()"
CASES = {
    "python": "pass",
    "import torch": "import torch",
    "import torch, equiv_probe": "import torch, equiv_probe",
    "... and ep.twirl, ep.decompose": "import torch, equiv_probe as ep; ep.twirl, ep.decompose, ep.RotationPlan",
    "... and ep.Probe": "import torch, equiv_probe as ep; ep.Probe",
    "... and every public name": "import torch, equiv_probe as ep; [getattr(ep, name) for name in ep.__all__]",
    "equiv-probe --version": COMMAND.format("--version"),
    "equiv-probe --help": COMMAND.format("--help"),
}


def seconds(code: str) -> float:
    """Processor time of a fresh interpreter that runs some code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What importing costs.")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name, code in CASES.items():
        print(f"{name:<34} {min(seconds(code) for _ in range(repeats)):.2f} s")


if __name__ == "__main__":
    main()
