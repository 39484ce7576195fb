"""Check the answers to a notebook's exercises: print `right` or a hint in one line, whatever the answer is."""

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import numpy as np

KINDS = {"truth": bool | np.bool_, "number": Real, "text": str, "list": list | tuple}  # a bool is a Real as well
WANTED = {"number": "a number", "truth": "True or False", "text": "text in quotes", "list": "a list"}
ROUNDING = 1e-9  # 0.935 - 0.93 is a little more than 0.005


def check_answer(answer: Any, solution: Any, hint: str, within: float = 0) -> None:
    """Print `right` or a hint; a number may differ from the solution by at most `within`."""
    print(verdict(answer, solution, hint, within))


def check_function(answer: Any, solution: Callable, calls: Iterable[tuple], hint: str, within: float = 0) -> None:
    """Print `right` if the answer is a function that returns what the solution does for each call, or else a hint."""
    lines = (verdict_on_call(answer, solution, arguments, hint, within) for arguments in calls)
    print(next((line for line in lines if line != "right"), "right"))


def verdict_on_call(answer: Any, solution: Callable, arguments: tuple, hint: str, within: float) -> str:
    """Return the verdict on one call of the function."""
    if answer is None:
        return "no answer yet"
    if not callable(answer):
        return f"Not yet: give a function, not a {type(answer).__name__}."
    try:
        result = answer(*arguments)
    except Exception as error:  # the reader's code may raise anything
        return f"Not yet: your function raises {type(error).__name__}: {error}"
    if result is None:
        return "Not yet: your function returns nothing."
    return verdict(result, solution(*arguments), hint, within)


def verdict(answer: Any, solution: Any, hint: str, within: float = 0) -> str:
    """Return `no answer yet`, `right`, or `Not yet:` with a hint."""
    if answer is None:
        return "no answer yet"
    if kind(answer) != kind(solution):
        return f"Not yet: give {WANTED[kind(solution)]}, not a {type(answer).__name__}."
    if kind(solution) == "number":
        right = abs(answer - solution) <= within + ROUNDING
    elif kind(solution) == "list":
        right = sorted(map(str, answer)) == sorted(solution)
    else:
        right = answer == solution
    return "right" if right else f"Not yet: {hint}"


def kind(value: Any) -> str:
    """Return the kind of a value: truth, number, text, list, or empty."""
    return next((name for name, types in KINDS.items() if isinstance(value, types)), "")
