"""Install a host in a virtual environment of its own, and run its test there: ``python tests/hosts/install.py nequip``.

Hosts pin versions that exclude each other, so that no one environment holds them all. Without a name: all of them.
Environments lie in the folder ``equiv_probe_hosts`` of the system's temporary files, or in ``EQUIV_PROBE_HOSTS``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOSTS = Path(os.environ.get("EQUIV_PROBE_HOSTS") or Path(tempfile.gettempdir()) / "equiv_probe_hosts")
TORCH = os.environ.get("TORCH", "torch==2.13.0")


@dataclass(frozen=True)
class Host:
    """What a host needs: packages, and the repository of one that is not on PyPI."""

    packages: tuple[str, ...] = ()
    repository: str = ""
    without: str = ""
    """A package that comes along, is built for another torch, and is not needed."""
    alone: str = ""
    """A package that is installed without those that it requires: it pins another torch."""


FAIRCHEM = "e3nn ase hydra-core numba lmdb torchtnt huggingface-hub wandb submitit clusterscope==0.0.18 websockets"

DEEPMD = "ase e3nn einops ml_dtypes mendeleev array-api-compat lmdb msgpack wcmatch h5py pyyaml dargs mpich"

HOSTED = {
    "aimnet": Host(("aimnet", "ase")),
    "chgnet": Host(("chgnet>=0.4", "ase")),
    "deepmd": Host(tuple(DEEPMD.split()), alone="deepmd-kit==3.2.0"),
    "egnn": Host(("torch-geometric",), "https://github.com/vgsatorras/egnn"),
    "fairchem": Host(
        (*FAIRCHEM.split(), "monty", "orjson", "ase-db-backends", "backoff", "setuptools<81"),
        alone="fairchem-core==2.24.0",
    ),
    "mace": Host(("mace-torch>=0.3.14", "ase")),
    "matgl": Host(("matgl>=4", "lightning", "torch-geometric")),
    "mattersim": Host(("mattersim", "ase"), without="torchvision"),
    "metatrain": Host(("metatrain[soap-bpnn]", "metatomic-ase", "ase")),
    "monai": Host(("monai", "pytorch-ignite")),
    "nequip": Host(("nequip>=0.15", "lightning", "ase")),
    "semlaflow": Host(
        ("lightning", "rdkit", "openbabel-wheel", "ase", "torchmetrics"), "https://github.com/rssrwn/semla-flow"
    ),
    "sevenn": Host(("sevenn>=0.11", "ase")),
    "torchani": Host(("torchani", "ase")),
    "torchcfm": Host(("torchcfm", "ase"), without="torchvision"),
    "torchmdnet": Host(("torchmd-net", "ase")),
    "transformers": Host(("transformers", "accelerate", "ase")),
}


def install(name: str) -> Path:
    """Make a host's environment, if it is not there yet; its interpreter."""
    host, where = HOSTED[name], HOSTS / name
    python = where / "bin" / "python"
    if (where / "ready").exists():
        return python
    venv.create(where, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, TORCH], check=True)  # first and pinned: what comes after may not bring gigabytes of CUDA
    subprocess.run([*pip, TORCH, "pytest", "scipy", *host.packages], check=True)
    subprocess.run([*pip, TORCH, "-e", str(ROOT)], check=True)
    if host.alone:
        subprocess.run([*pip, "--no-deps", host.alone], check=True)
    if host.without:
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", host.without], check=True)
    if host.repository:
        source = os.environ.get(f"EQUIV_PROBE_{name.upper()}", host.repository)
        subprocess.run(["git", "clone", "--quiet", source, str(where / "source")], check=True)
    (where / "ready").touch()
    return python


def main(names: list[str]) -> int:
    """Install and test these hosts, one after another; the number of those that fail."""
    failed = []
    if unknown := sorted(set(names) - set(HOSTED)):
        print(f"{', '.join(unknown)}: no such host; there are {', '.join(HOSTED)}", file=sys.stderr)
        return 2
    for name in names or list(HOSTED):
        python = install(name)
        where = {"EQUIV_PROBE_SOURCE": str(HOSTS / name / "source"), "OMP_NUM_THREADS": "1"}
        command = [str(python), "-m", "pytest", "-m", "host", "-q", "-rsP", "--confcutdir=tests/hosts"]
        command.append(f"tests/hosts/test_{name}.py")
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **where}, check=False).returncode:
            failed.append(name)
    print(f"{len(failed)} of {len(names or HOSTED)} hosts failed: {', '.join(failed) or 'none'}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
