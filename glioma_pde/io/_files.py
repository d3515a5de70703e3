"""What every file of the package shares: clear errors, and the sole right to write a file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from glioma_pde.errors import GliomaError

try:
    import fcntl
except ImportError:  # no advisory locks on this system: files are then written unguarded
    fcntl = None  # type: ignore[assignment]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def error_number(error: OSError) -> int | None:
    """The system's error number; h5py hides it in the text."""
    found = re.search(r"errno = (\d+)", str(error))
    return int(found.group(1)) if found else error.errno


@contextlib.contextmanager
def file_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn the system's errors about a file into one sentence.

    Args:
        doing: the verb of the sentence, ``"write"`` or ``"read"``.

    Raises:
        GliomaError: for every ``OSError`` raised inside.
    """
    try:
        yield
    except OSError as error:
        number = error_number(error)
        if number in _FULL:
            text = (
                f"{path}: the disk (or your share of it) is full; "
                "what was saved before is kept, so free some space and start or resume again."
            )
        elif isinstance(error, FileNotFoundError):
            text = f"{path}: no such file or folder; check the path."
        elif isinstance(error, NotADirectoryError | IsADirectoryError):
            text = f"{path}: a file stands where a folder should, or the reverse; choose another path."
        elif isinstance(error, PermissionError) or number == errno.EROFS:
            text = f"{path}: no permission to {doing} here; change the permissions or choose another folder."
        elif isinstance(error, BlockingIOError):
            text = f"{path} is being written by another program; wait for it, or choose another file."
        else:
            reason = (error.strerror or str(error)).strip().split("\n")[0]
            text = f"{path}: cannot {doing} this file ({reason}); check the disk or choose another path."
        raise GliomaError(text) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def require_room(path: Path, amount: int) -> None:
    """Refuse what the disk that is to hold ``path`` has no room for.

    Args:
        amount: what will be written, about [bytes].

    Raises:
        GliomaError: saying how much is missing.
    """
    folder = path.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    with file_errors(path):
        free = shutil.disk_usage(folder).free
    if amount > free:
        raise GliomaError(
            f"{path}: the output needs about {in_units(amount)}, but the disk has {in_units(free)} free; free some "
            "space, choose another folder, or store fewer frames (time.frame_every_days) or coarser cells."
        )


def in_units(amount: float) -> str:
    """Bytes for people, such as ``"1.3 GB"``."""
    unit = next((u for u in ("kB", "MB", "GB") if amount < 1e3 * _SCALE[u]), "TB")
    return f"{amount / _SCALE[unit]:.3g} {unit}"


_SCALE = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@contextlib.contextmanager
def room(fd: int | None, end: Callable[[], int], amount: int) -> Iterator[None]:
    """Hold ``amount`` bytes of disk behind the file's ``end()`` while the body writes there.

    A disk that fills up under HDF5 breaks its memory of the file, so that is found out before.

    Raises:
        OSError: if the disk, the quota or the size limit has no such room; the file is then unchanged.
    """
    if fd is None or not hasattr(os, "posix_fallocate"):
        yield
        return
    try:
        os.posix_fallocate(fd, end(), amount)
    except OSError as error:
        os.ftruncate(fd, end())
        if error.errno in _FULL:
            raise
    yield
    os.ftruncate(fd, end())


def divert_writes(fd: int) -> None:
    """Send everything still to come through the open file descriptor ``fd`` to nowhere."""
    if hasattr(os, "memfd_create"):
        nowhere = os.memfd_create("nowhere")
    else:
        nowhere, name = tempfile.mkstemp()
        os.unlink(name)
    os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


class Claim:
    """The sole right to write ``path``, built first as ``path.partial`` and then moved into place.

    The right is an advisory lock (``flock``) on the file itself, so it ends with the process, however
    that ends. While the file is built the lock is exclusive; afterwards it is shared, so that readers
    which lock (h5py's default) can open the file and a second writer cannot.

    Raises:
        GliomaError: if another process (or an unclosed writer in this one) has the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.fd: int | None = None
        if fcntl is None:
            return
        with file_errors(path):
            self.fd = self._lock_partial()
            try:
                if self._is_held():
                    raise BlockingIOError
            except BaseException:
                self.abandon()
                raise

    def _lock_partial(self) -> int:
        for _ in range(100):
            fd = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _flock(fd, fcntl.LOCK_EX)
                # Another writer may have moved its finished file away between opening and locking.
                if os.path.exists(self.partial) and os.path.samestat(os.fstat(fd), os.stat(self.partial)):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise BlockingIOError

    def _is_held(self) -> bool:
        try:
            fd = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            _flock(fd, fcntl.LOCK_EX)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def publish(self) -> None:
        """Move the built file into its place, keeping the lock as a shared one."""
        if self.fd is not None:
            _flock(self.fd, fcntl.LOCK_SH)
        os.replace(self.partial, self.path)

    def sync(self) -> None:
        """Wait until the disk has the file."""
        if self.fd is not None:
            os.fsync(self.fd)

    def abandon(self) -> None:
        """Remove the unfinished file and give the right back."""
        with contextlib.suppress(OSError):
            self.partial.unlink()
        self.release()

    def release(self) -> None:
        """Give the right back; the file stays."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def unlock(fd: int) -> None:
    """Give back a lock that a library took on ``fd``."""
    if fcntl is not None:
        _flock(fd, fcntl.LOCK_UN)


def _flock(fd: int, kind: int) -> None:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems know no locks; there the guard is absent, not the run.
        if error.errno not in {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}:
            raise
