"""Check the answers to a notebook's exercises: one line that says right, or a hint, whatever the answer is."""

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import numpy as np

WANTED = {"number": "a number", "truth": "True or False", "text": "a text in quotes", "list": "a list"}
ROUNDING = 1e-9  # 0.935 - 0.93 is a little more than 0.005


def check_answer(answer: Any, solution: Any, hint: str, within: float = 0) -> None:
    """Print whether an answer is right, or a hint.

    Parameters
    ----------
    answer : object
        What the reader gave; None where there is no answer yet.
    solution : number, bool, str or list
    hint : str
        What to look at, where the answer is wrong.
    within : float
        How far a number may be from the solution. The exercise has to say so.
    """
    print(verdict(answer, solution, hint, within))


def check_function(answer: Any, solution: Callable, calls: Iterable[tuple], hint: str, within: float = 0) -> None:
    """Print whether a function that is an answer gives what the solution does, for each tuple of arguments."""
    lines = {verdict_of_call(answer, solution, arguments, hint, within) for arguments in calls}
    print(min(lines, key=lambda line: line == "right"))


def verdict_of_call(answer: Any, solution: Callable, arguments: tuple, hint: str, within: float) -> str:
    """Return what `verdict` says of one call of a function."""
    if answer is None:
        return "no answer yet"
    if not callable(answer):
        return f"Not yet: give a function, not a {type(answer).__name__}."
    try:
        given = answer(*arguments)
    except Exception as error:  # whatever the reader's own code raises
        return f"Not yet: your function raises {type(error).__name__}: {error}"
    if given is None:
        return "Not yet: your function returns nothing."
    return verdict(given, solution(*arguments), hint, within)


def verdict(answer: Any, solution: Any, hint: str, within: float = 0) -> str:
    """Return `no answer yet`, `right`, or `Not yet: ` with a hint."""
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
    """Return what kind of answer a value is."""
    kinds = {"truth": bool | np.bool_, "number": Real, "text": str, "list": list | tuple}  # a bool is a Real as well
    return next((name for name, types in kinds.items() if isinstance(value, types)), "")
