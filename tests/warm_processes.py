"""Processes that are forked from one which has imported torch and more already: a command in a tenth of a second.

Commands behave as in a process of their own: arguments, folder, environment, output, signals and exit code are theirs.
What is not tested so is the start of the interpreter; one test of each command starts it as it is installed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

AUDITS = (
    *("torch", "torchmetrics", "scipy.stats", "rich.progress", "matplotlib.figure", "ase.build", "ase.io.extxyz"),
    *("ase.io.trajectory", "ase.calculators.emt", "equiv_probe_ase.auditing.audit", "equiv_probe_ase.commands.md"),
    *("equiv_probe_ase.dynamics.molecular_dynamics", "equiv_probe.probe.probe", "equiv_probe.cli.run_script"),
)
GRAPHS = ("torch", "torchmetrics", "torch_geometric.loader", "equiv_probe.probe.probe", "equiv_probe.cli.run_script")
LIGHTNING = ("torch", "torchmetrics", "pytorch_lightning", "equiv_probe.probe.probe", "equiv_probe_lightning.measuring")
SCHNETPACK = (*LIGHTNING, "hydra", "schnetpack", "schnetpack.md", "ase.io.extxyz", "ase.db")  # its commands come twice
EQUIV_PROBE = "equiv_probe.cli.main:main"


class Started:
    """A running command, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, folder: Path, server: subprocess.Popen[str]) -> None:
        self._folder = folder
        while server.poll() is None and not (folder / "pid").exists():
            time.sleep(0.005)
        self.pid = int((folder / "pid").read_text())

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        path = self._folder / "code"
        return int(path.read_text()) if path.exists() else None

    @property
    def returncode(self) -> int | None:
        """See :meth:`poll`."""
        return self.poll()

    def errors(self) -> str:
        """What it has written on stderr so far."""
        path = self._folder / "err"
        return path.read_text() if path.exists() else ""

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 120.0) -> tuple[str, str]:
        """Wait for its end; what it wrote on stdout and on stderr."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"{timeout} s, and not ready: {self.errors()}")
            time.sleep(0.005)
        out, err = ((self._folder / name).read_text() for name in ("out", "err"))
        return out, err


def start(
    target: str | Path,
    *arguments: str | Path,
    cwd: Path,
    env: dict[str, str] | None = None,
    imported: tuple[str, ...] = AUDITS,
) -> Started:
    """Start a command.

    Args:
        target: ``module:function`` of a command, or a script's path.
        arguments: of the command line.
        cwd: the folder to run in.
        env: the whole environment; None is that of the tests.
        imported: modules that the process finds imported.
    """
    server = _server(imported)
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    request = {
        "target": str(target),
        "arguments": [str(argument) for argument in arguments],
        "cwd": str(cwd),
        "env": dict(os.environ if env is None else env),
        "folder": str(folder),
    }
    assert server.stdin is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return Started(folder, server)


def run(
    target: str | Path,
    *arguments: str | Path,
    cwd: Path,
    env: dict[str, str] | None = None,
    imported: tuple[str, ...] = AUDITS,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """As :func:`start`, and wait for the end."""
    process = start(target, *arguments, cwd=cwd, env=env, imported=imported)
    out, err = process.communicate(timeout)
    code = process.returncode
    assert code is not None
    return subprocess.CompletedProcess([str(target), *map(str, arguments)], code, out, err)


@cache
def _server(imported: tuple[str, ...]) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, sys.path))
    kept = {name: value for name, value in os.environ.items() if name != "EQUIV_PROBE"}
    server = subprocess.Popen(
        [sys.executable, __file__, *imported], stdin=subprocess.PIPE, text=True, env={**kept, "PYTHONPATH": path}
    )
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


def _serve(imported: list[str]) -> None:
    """Fork for every line on stdin, until there are no more."""
    for name in imported:
        with contextlib.suppress(ImportError):  # a framework that is not installed: its tests are skipped
            import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            _watch(json.loads(line))


def _watch(request: dict[str, Any]) -> None:
    """In a process that only waits for the command, and leaves its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = Path(request["folder"])
    pid = os.fork()
    if pid == 0:
        _run(request)
    _write(folder / "pid", pid)
    _write(folder / "code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _write(path: Path, value: int) -> None:
    """At once: whoever waits for the file must not find it empty."""
    path.with_suffix(".new").write_text(str(value))
    path.with_suffix(".new").rename(path)


def _run(request: dict[str, Any]) -> None:
    """The command itself."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, target, arguments = Path(request["folder"]), request["target"], request["arguments"]
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, colon, function = target.partition(":")
    sys.argv = [function or target, *arguments]
    sys.path[0] = str(Path(sys.executable).parent if colon else Path(target).resolve().parent)
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    try:
        if colon:
            getattr(import_module(module), function)()
        else:
            runpy.run_path(target, run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1:])
