"""Processes that start at once: a server imports the package, without touching a JAX backend, and forks for each.

A child is as good as a fresh interpreter: it sets up JAX, reads, compiles (from the session's cache) and can be killed.
Run as a program this file is the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """How a child ended; ``code`` is that of `subprocess`, negative for signals."""

    code: int
    out: str
    err: str


class Child:
    """A running child."""

    def __init__(self, server: Server, pid: int, out: Path, err: Path) -> None:
        self.pid, self._server, self._out, self._err = pid, server, out, err

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0) -> Done:
        """Its end; one that takes longer is killed and reported as ended by SIGALRM."""
        code = self._server.ask(wait=self.pid, seconds=seconds)
        return Done(code, self._out.read_text(), self._err.read_text())


class Server:
    """Forks children that run Python statements."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__], cwd=ROOT, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, **question) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, code: str, *argv) -> Child:
        """A child that executes ``code`` with ``sys.argv[1:] == argv``."""
        self._count += 1
        out, err = (self._folder / f"{self._count}.{kind}" for kind in ("out", "err"))
        pid = self.ask(code=code, argv=[str(a) for a in argv], out=str(out), err=str(err))
        return Child(self, pid, out, err)

    def glioma(self, *argv, before: str = "pass") -> Child:
        """The command line ``argv``, after the statements ``before``."""
        return self.start(f"{before}\nfrom glioma_pde.cli import main\nsys.exit(main(sys.argv[1:]))", *argv)

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.close()


def environment() -> dict[str, str]:
    """As a user would run, with the session's compilation cache, which keeps every small program too."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    return kept | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


# -- the server ---------------------------------------------------------------------------------------


def _serve(questions: IO[str]) -> None:
    import glioma_pde.cli
    import glioma_pde.repeat
    import glioma_pde.run
    import glioma_pde.table  # noqa: F401

    for line in questions:
        question = json.loads(line)
        if "wait" in question:
            answer = _wait(question["wait"], question["seconds"])
        else:
            answer = os.fork()
            if answer == 0:
                _child(question)
        print(answer, flush=True)


def _wait(pid: int, seconds: float) -> int:
    def late(number, frame) -> None:
        os.kill(pid, signal.SIGKILL)
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except TimeoutError:
        os.waitpid(pid, 0)
        return -signal.SIGALRM
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _child(question: dict) -> None:
    """Never returns."""
    code = 1
    try:
        for name, fd in ((os.devnull, 0), (question["out"], 1), (question["err"], 2)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), fd)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where tests run in the background
        sys.argv = ["child", *question["argv"]]
        try:
            names = {"__name__": "child", "sys": sys, "os": os, "signal": signal, "resource": resource}
            exec(compile(question["code"], "<child>", "exec"), names)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.stdin)
