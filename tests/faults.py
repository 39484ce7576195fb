"""Run the flow in another process and inject a fault. A fork server that has imported everything starts the process."""

import functools
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["orchestration.train", "versions"])  # all that tests start


def start(log: Path, fault: tuple[str, Any] = ("none", None), **parameters: Any) -> BaseProcess:
    """Start the flow in another process with the environment of this one, and write its output to a log."""
    process = SERVER.Process(target=run, args=(dict(os.environ), log, fault, parameters))
    process.start()
    return process


def run(environment: dict[str, str], log: Path, fault: tuple[str, Any], parameters: dict[str, Any]) -> None:
    """Run the flow."""
    os.environ.clear()
    os.environ.update(environment)
    from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    from orchestration import train
    from wine_quality import storage, tracking
    from wine_quality.errors import WineError

    shown = logging.FileHandler(log)
    logging.getLogger("wine_quality").addHandler(shown)
    places = {"train": train, "tracking": tracking, "storage": storage}
    FAULTS[fault[0]](fault[1], places)
    own = {setting: environment[setting.name] for setting in (PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH)}
    with temporary_settings(own):
        try:
            train.train_wine_quality(**parameters)
        except WineError as error:
            logging.getLogger("wine_quality").error("error: %s", error)
            raise SystemExit(1) from None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files inside the block, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def killed_after(name: str, places: dict[str, Any]) -> None:
    """Kill the process with SIGKILL when a function, `module.function`, has done its work but not yet returned."""

    def work_and_die(function: Callable, *args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    replace(name, places, work_and_die)


def slow_after(name: str, places: dict[str, Any]) -> None:
    """Let the process sleep for a few seconds when a function has done its work."""

    def work_and_sleep(function: Callable, *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        time.sleep(4)
        return result

    replace(name, places, work_and_sleep)


def full_disk_at(name: str, places: dict[str, Any]) -> None:
    """Let the disk be full while a function works."""

    def work_without_space(function: Callable, *args: Any, **kwargs: Any) -> Any:
        with largest_file(100):
            return function(*args, **kwargs)

    replace(name, places, work_without_space)


def replace(name: str, places: dict[str, Any], around: Callable) -> None:
    """Replace a function, or the function of a task, by `around`, which calls it."""
    place, _, name = name.partition(".")
    target = getattr(places[place], name)
    owner, attribute = (target, "fn") if hasattr(target, "fn") else (places[place], name)
    function = getattr(owner, attribute)
    setattr(owner, attribute, functools.wraps(function)(functools.partial(around, function)))


def keys_refused_at(name: str, places: dict[str, Any]) -> None:
    """Let the bucket reject the requests of a function, as for a user without the permission."""
    from botocore.exceptions import ClientError

    def refuse(_function: Callable, bucket: Any, *_: Any) -> None:
        with places["storage"].translate_s3_errors(bucket.bucket_name):
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "DeleteObject")

    replace(name, places, refuse)


def midnight(seconds: int, _places: dict[str, Any]) -> None:
    """Use a time zone in which the day ends in a number of seconds."""
    now = time.gmtime()
    till = 86400 - seconds - (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec)
    sign, ahead = ("-", till) if till >= 0 else ("+", -till)
    os.environ["TZ"] = f"WINE{sign}{ahead // 3600:02}:{ahead // 60 % 60:02}:{ahead % 60:02}"
    time.tzset()


FAULTS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "none": lambda _value, _places: None,
    "killed after": killed_after,
    "slow after": slow_after,
    "full disk at": full_disk_at,
    "keys refused at": keys_refused_at,
    "midnight": midnight,
}
