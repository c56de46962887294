"""Being told to stop, by Ctrl-C or SIGTERM, at any moment: what runs is interrupted, what is imported ends at once.

A library may catch whatever is raised as it is imported, or print it as its own failure; and nothing has been begun then.
"""

import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
came: list[int] = []  # the signals so far


def heed(told: str) -> None:
    """From now on either signal raises KeyboardInterrupt, or, within an import, says `told` and ends the process."""

    def stop(sent: int, frame: FrameType | None) -> None:
        came.append(sent)
        if _is_importing(frame):
            say(told)
            os._exit(128 + sent)
        raise KeyboardInterrupt

    for each in SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:  # as Ctrl-C is in the background of some shells
            signal.signal(each, stop)


def say(told: str) -> None:
    print(f"\n{told}", file=sys.stderr, flush=True)


def exit_code() -> int:
    """130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + came[-1] if came else 128 + signal.SIGINT


def ignore() -> None:
    """For the end, when what Python tidies up must not be torn apart."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
