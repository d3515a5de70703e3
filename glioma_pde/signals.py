"""Ctrl-C and SIGTERM: while a run is under way the first asks it to save itself, a second ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, the order of a cluster or a system that shuts down."""


class Stop:
    """Whether a signal has come, and which.

    Attributes:
        signal: the first that came, or ``None``.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            _raise(number, frame)
        self.signal = number


def code_of(error: KeyboardInterrupt) -> int:
    return exit_code(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def exit_code(number: int | None) -> int:
    """What a shell reports of a program that the signal has ended; 130 (Ctrl-C) if none is known."""
    return 128 + (number or signal.SIGINT)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Within: SIGTERM raises `Terminated`, so that files are closed; Ctrl-C stays `KeyboardInterrupt`."""
    with _handling(_raise):
        yield


@contextlib.contextmanager
def asking() -> Iterator[Stop]:
    """Within: the first signal only tells the `Stop`."""
    stop = Stop()
    with _handling(stop.note):
        yield stop


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # Only the main thread may set handlers, and what the caller ignores (nohup, background jobs) stays ignored.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in CAUGHT}
    before = {n: old for n, old in before.items() if old is not None and old is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
