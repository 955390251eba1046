"""Ctrl-C and SIGTERM while training: the first asks to stop after the step at hand, the second stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """``asked`` is true once somebody wants the run to end."""

    asked = False


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """While open, SIGINT, SIGTERM and (where there is one) SIGHUP set ``asked``; a second one raises ``KeyboardInterrupt`` where the program stands.

    Signals reach only the main thread; elsewhere this changes nothing. The handlers before are put back at the end.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
