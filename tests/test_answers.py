"""The answer checker accepts any answer and always prints one line."""

import numpy as np
import pandas as pd
import pytest

from wine_quality.answers import check_answer, check_function, verdict

HINT = "look again."
ODD = [
    "0.93",
    None,
    True,
    [0.93],
    {"a": 1},
    pd.DataFrame({"a": [0.93]}),
    pd.Series([0.93]),
    np.array([1, 2]),
    len,
    object,
]
WITHIN = [0.93, 0.9317, 0.935, np.float64(0.93), np.float32(0.93)]
BEYOND = [0.92, 1, 93, -0.9317, float("nan"), float("inf")]


@pytest.mark.parametrize(
    ("answer", "solution", "right"),
    [*((answer, 0.9317, True) for answer in WITHIN), *((answer, 0.9317, False) for answer in BEYOND),
     (7, np.int64(7), True), (np.int64(7), np.int64(7), True), (7.0, np.int64(7), True), (6, np.int64(7), False),
     (7.4, np.int64(7), False), ("pH", "pH", True), ("ph", "pH", False), (np.True_, True, True), (False, True, False),
     (1, True, False), (["b", "a"], ["a", "b"], True), (("a",), ["a"], True), (["a"], ["a", "b"], False),
     ("a", ["a"], False)],
)  # fmt: skip
def test_an_answer_is_right_if_it_is_equal_or_within_the_tolerance(answer, solution, right):
    within = {"within": 0.005} if isinstance(solution, float) else {}
    line = verdict(answer, solution, HINT, **within)
    assert (line == "right") is right
    assert right or solution != 0.9317 or line == "Not yet: look again."


@pytest.mark.parametrize("solution", [0.93, True, "pH", ["pH"]])
@pytest.mark.parametrize("answer", ODD, ids=lambda odd: type(odd).__name__)
def test_an_answer_of_the_wrong_type_gets_a_hint_instead_of_an_exception(capsys, answer, solution):
    check_answer(answer, solution, HINT)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "no answer yet" if answer is None else line.startswith("Not yet: ") or line == "right"
    if type(answer) is not type(solution) and answer is not None:
        assert f", not a {type(answer).__name__}." in line


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (None, "no answer yet"),
        (lambda a, b: a + b, "right"),
        (lambda a, b: 2 * a, "Not yet: look again."),  # right for the first call only
        (0.5, "Not yet: give a function, not a float."),
        (lambda a: a, "Not yet: your function raises TypeError: "),
        (lambda a, b: None, "Not yet: your function returns nothing."),
        (lambda a, b: str(a + b), "Not yet: give a number, not a str."),
    ],
)
def test_a_function_is_compared_call_by_call(capsys, answer, line):
    check_function(answer, lambda a, b: a + b, [(1, 1), (1, 2)], HINT)
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith(line)
