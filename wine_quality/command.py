"""The entry of every command: its `.env`, its signals, and its exit code."""

import signal
import sys
from collections.abc import Callable
from types import FrameType

from wine_quality.config import load_env_file
from wine_quality.errors import WineError


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: its own, 1 after a `WineError`, 130 after SIGINT, 143 after SIGTERM.

    Both signals also stop a command that was started with SIGINT ignored, as by `&` in a script.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        load_env_file()
        return command() or 0
    except WineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BaseException:
        if not received:  # what a signal stops may fail in its own way, such as on a server that stopped first
            raise
        print("stopped. Run it again when you like.", file=sys.stderr)
        return 128 + received[0]
