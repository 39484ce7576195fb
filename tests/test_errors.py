import os
import signal

import pytest

from wine_quality.command import exit_code
from wine_quality.errors import DataError, WineError


@pytest.fixture(autouse=True)
def restored_interrupt():
    usual = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, usual)


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_has_the_exit_code_it_returns(returned, code, capsys):
    assert exit_code(lambda: returned) == code
    assert capsys.readouterr() == ("", "")


def test_a_wine_error_is_printed_as_one_line_with_exit_code_1(capsys):
    assert exit_code(lambda: fail(DataError("wine.csv: gone. Get it again."))) == 1
    assert capsys.readouterr() == ("", "error: wine.csv: gone. Get it again.\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_any_other_error_is_raised(error):
    with pytest.raises(type(error)):
        exit_code(lambda: fail(error))


@pytest.mark.parametrize("last_words", [None, OSError("the server stopped first")])
def test_ctrl_c_prints_one_line_and_exits_with_code_130(last_words, capsys):
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            if last_words:
                raise last_words

    assert exit_code(command) == 130
    assert capsys.readouterr() == ("", "stopped. Run it again when you like.\n")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("wine\n\x1b[31m.csv: gone", "wine  [31m.csv: gone"),
        ("http://me:corked@127.0.0.1:5500/api failed", "http://me:***@127.0.0.1:5500/api failed"),
        ("postgresql://me:cor/k@ed@db/wine.", "postgresql://me:***@db/wine."),
        ("http://127.0.0.1:5500/api, models:/wine@champion", "http://127.0.0.1:5500/api, models:/wine@champion"),
    ],
)
def test_an_error_is_one_printable_line_with_passwords_in_addresses_masked(line, shown):
    assert str(WineError(line)) == str(DataError(line)) == shown
