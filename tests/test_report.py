import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from orchestration.report import pages
from wine_quality.config import settings
from wine_quality.registry import Verdict
from wine_quality.templates import render

INTERVAL = (
    "It accounts for variation between the rows of the gate set and between training seeds, and gets wider each time "
    "the same gate set is used"
)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (
            Verdict(True, "champion version 1", 0.0123, 0.004, 0.0206, "significantly better", 1),
            "Version 2 becomes the **champion** (significantly better). On the gate set its RMSE is lower than "
            "that of champion version 1 by 0.0123. The interval of the gain is 0.0040 to 0.0206 at the 95 % level. "
            f"{INTERVAL}: this is use 1.",
        ),
        (
            Verdict(
                False, "champion version 1", -0.002, -0.01, 0.006, "its gain is below the minimum effect of 0.004", 3
            ),
            "Version 2 stays a **challenger**: the champion does not change (its gain is below the minimum effect of "
            "0.004). On the gate set its RMSE is higher than that of champion version 1 by 0.0020. The interval of the "
            f"gain is -0.0100 to 0.0060 at the 99.17 % level. {INTERVAL}: this is use 3.",
        ),
    ],
)
def test_the_report_says_what_the_gate_decided_and_at_which_level(verdict, text):
    assert render("gate.md.j2", verdict=verdict, version="2") == text


def test_the_pages_are_those_of_shared_servers_without_their_passwords_else_those_of_make_up(monkeypatch):
    assert pages(settings(mlflow_port=1234, prefect_port=5678)) == ("http://127.0.0.1:1234", "http://127.0.0.1:5678")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://wine:secret@mlflow.example")
    with temporary_settings({PREFECT_API_URL: "https://prefect.example/api"}):
        assert pages(settings()) == ("https://mlflow.example", "https://prefect.example")
