"""Every figure of the README and of the data card is one that was measured."""

import json
import re

from test_notebooks import read, texts

from notebooks.execute import CHAPTERS
from wine_quality.config import ROOT
from wine_quality.models import BASELINES
from wine_quality.schema import MEASUREMENTS

README = (ROOT / "README.md").read_text()
WORDS = " ".join(README.split())
FIGURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")
CARD = (ROOT / "wine_data" / "README.md").read_text()


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_table_of_models_is_the_one_that_was_measured():
    models = results("scores")["models"]
    best_first = sorted(BASELINES, key=lambda name: models[name]["folds"]["rmse"])
    rows = [
        "| "
        + " | ".join(
            [name, *(f"{models[name][on][measure]:z.3f}" for on in ("folds", "holdout") for measure in ("rmse", "r2"))]
        )
        + " |"
        for name in best_first
    ]
    assert "\n".join(rows) in README


def test_the_seconds_and_gigabytes_of_a_run_are_those_that_were_measured():
    run = results("run")
    assert f"a run takes {run['seconds']['min']:.0f} to {run['seconds']['max']:.0f} seconds" in WORDS
    work = run["seconds_from_load_to_push"]
    assert f"{work['min']:.0f} to {work['max']:.0f} of them from the wine to the bucket" in WORDS
    assert f"at most {run['peak_memory_gb']['max']:.1f} GB of memory" in WORDS
    assert f"the first run {run['first_run_seconds']:.0f} seconds" in WORDS


def test_the_overhead_and_the_size_of_the_set_up_are_those_that_were_measured():
    setup = results("setup")
    seconds = setup["seconds_with_packages_cached"]
    assert f"at most {results('overhead')['flow_over_plain']['max']:.2f} times as long" in WORDS
    assert f"The set-up takes {seconds['min']:.0f} to {seconds['max']:.0f} seconds" in WORDS
    assert f"{setup['environment_gb']:.2f} GB of disk" in WORDS


def rows_of(card: str) -> dict[str, list[str]]:
    """Return the cells of each table row of a card by its first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    return {first.strip("`"): rest for first, *rest in rows}


def test_the_table_of_searches_is_the_one_that_was_measured():
    measured = results("search")
    text = (ROOT / "experiment_tracking" / "README.md").read_text().replace("−", "-")
    for search in measured["searches"].values():
        pick, blend = search["pick"], search["blend"]
        trials, seconds = (f"{low:.0f} to {high:.0f}" for low, high in (search["trials"], search["cpu_seconds"]))
        gain, low, high = pick["gain_over_extra_trees"]
        last = f"{blend['rmse']:.4f}" if blend["rmse"] != pick["rmse"] else "one family"
        row = f"| {trials} | {seconds} | {pick['rmse']:.4f} | {gain:.4f} ({low:.4f} to {high:.4f}) | {last} |"
        assert row in text
    gain, low, high = measured["searches"]["hyperopt"]["blend"]["gain_over_extra_trees"]
    words = " ".join(text.split())
    assert f"by {gain:.4f}, with an interval from {low:.4f} to {high:.4f}" in words
    assert f"have {measured['extra_trees_rmse']:.4f} on the same folds" in words


def test_the_data_card_gives_the_units_and_limits_of_the_schema():
    rows = rows_of(CARD)
    told = {name: (rows[name][1], rows[name][2]) for name in MEASUREMENTS}
    assert told == {name: (m.unit, f"{m.low:g} to {m.high:g}") for name, m in MEASUREMENTS.items()}


def test_the_data_card_gives_the_figures_that_were_measured():
    found, rows = results("sample"), rows_of(CARD)
    figures = {
        "rows": f"{found['rows']:,}",
        "distinct wines": f"{sum(found['distinct_wines'].values()):,}",
        "equal to a real wine": str(found["equal_to_a_real_wine"]),
        "R², trained on the sample, tested on all distinct real wines": (
            f"{found['trained_on_sample_tested_on_real']['r2']:.3f}"
        ),
        "R², within the sample (5 folds)": f"{found['sample_in_5_folds']['r2']:.3f}",
        "largest difference of a column's mean, per colour": (
            f"{found['largest_relative_difference_of_a_column_mean']:.1%}".replace("%", " %")
        ),
        "largest difference of a correlation, per colour": f"{found['largest_difference_of_a_correlation']:.2f}",
    }
    assert {name: rows[name][0] for name in figures} == figures


def test_every_figure_in_a_readme_is_there_and_is_told_in_words():
    cards = [path for path in ROOT.glob("*/README.md") if path.parent.name[0] != "."] + [ROOT / "README.md"]
    shown = [(path, alt, image) for path in cards for alt, image in FIGURE.findall(path.read_text())]
    assert {image.rpartition("/")[2] for _, _, image in shown} == {path.name for path in ROOT.glob("images/*.png")}
    for path, alt, image in shown:
        assert (path.parent / image).is_file()
        assert len(alt.split()) > 10


def test_the_figures_of_the_three_worlds_are_those_of_the_notebook():
    (alt,) = (alt for alt, image in FIGURE.findall(README) if image == "images/three-worlds.png")
    notebook = read(ROOT / "notebooks" / "03-find-the-leak.ipynb")
    shown = "\n".join(text for cell in notebook.cells for text in texts(cell))
    r2 = dict(re.findall(r"^\d+ +(.+?) +extra_trees +(\d\.\d+)", shown, re.MULTILINE))
    assert re.findall(r"\b0\.\d{3}\b", alt) == [r2["Kaggle's pair"], r2["all rows"], r2["distinct wines"]]
    assert re.search(r"[\d.]+ %", alt)[0] == re.search(r"leaked: ([\d.]+)%", shown)[1] + " %"
    assert {f"{float(linear):.1f}" for linear in re.findall(r" linear +(0\.\d+)  0", shown)} == {"0.3"}


def test_the_time_of_the_notebooks_is_what_was_measured():
    seconds = results("notebooks")["chapter_seconds"]
    first, second, last = (f"{seconds[name]['min']:.0f} to {seconds[name]['max']:.0f}" for name in CHAPTERS)
    assert f"chapter 1 in {first} seconds on two cores" in WORDS
    assert f"those of chapter 2 in {second}" in WORDS
    assert f"that of chapter 5 in {last}" in WORDS


def test_the_cost_of_tracking_is_what_was_measured():
    measured = results("tracking")
    sqlite, server = (f"{measured[kind]['share']['max']:.1%}".replace("%", " %") for kind in ("sqlite", "server"))
    words = " ".join((ROOT / "experiment_tracking" / "README.md").read_text().split())
    assert f"at most {sqlite} of the time of a search of {measured['trials']} trials" in words
    assert f"at most {server} through" in words


def test_the_year_is_told_as_it_came_out():
    measured = results("year")
    assert measured["all_the_same"]
    text = " ".join((ROOT / "monitoring" / "README.md").read_text().split())
    seconds = measured["seconds"]
    assert f"It took {seconds['min']:.0f} to {seconds['max']:.0f} seconds on two cores" in text
    with_loop, without = measured["rmse_with_loop"], measured["rmse_without"]
    assert f"the RMSE was {with_loop:.3f}. The first champion alone would have had {without:.3f}" in text
    told = re.findall(r"- \*\*Weeks? ([\d and]+): ([a-z ]+)\.\*\*", text)
    weeks = {what: [int(week) for week in numbers.split(" and ")] for numbers, what in told}
    assert weeks["promoted"] == measured["promoted"]
    assert weeks["too early"] + weeks["wrong labels"] == measured["refused"]
    assert [week for week, kinds in measured["alerts"].items() if kinds == ["bad data"]] == [
        str(week) for week in weeks["bad data"]
    ]
    assert measured["alerts"][str(weeks["drift without harm"][0])] == ["drift"]


def test_what_it_costs_to_operate_is_what_was_measured():
    measured, over = results("orchestration"), results("overhead")["flow_over_plain"]
    text = (ROOT / "orchestration" / "README.md").read_text()

    def span(name: str, digits: int = 0) -> str:
        return f"{measured[name]['min']:.{digits}f} to {measured[name]['max']:.{digits}f}"

    for row in (
        f"all four of them answer | {span('up_ready_seconds')} s",
        f"is *Running* | {span('seconds_from_quick_run_to_running')} s",
        f"fresh | {span('fresh_seconds')} s",
        f"its results kept | {span('kept_seconds')} s, {span('kept_over_fresh', 2)} of that",
        f"plain functions | {over['min']:.2f} to {over['max']:.2f}",
        f"after six runs | {span('up_memory_gb', 2)} GB; {measured['up_memory_gb_after_six_runs']:.2f} GB",
    ):
        assert f"{row} |" in text


def test_the_speed_of_the_service_is_what_was_measured():
    measured = results("serving")
    text = (ROOT / "deployment" / "README.md").read_text()

    def span(found: dict, form: str) -> str:
        return f"{found['min']:{form}} to {found['max']:{form}}"

    for row in (
        *(f"{kind} | {span(found, ',.0f')}" for kind, found in speeds(measured["requests_per_second"])),
        f"over `mlflow models serve` | {span(measured['service_over_mlflow'], '.0f')} times",
        f"over the echo | {span(measured['service_over_echo'], '.2f')}",
        f"99 of 100 answers come within | {span(measured['half_load_p99_ms'], '.1f')} ms",
        f"over the pipeline in the same process | {span(measured['thousand_rows_over_in_process'], '.2f')}",
    ):
        assert f"{row} |" in text


def speeds(found: dict) -> list[tuple[str, dict]]:
    """Return the speed of each server by what the table calls it."""
    names = {"service": "this service", "mlflow": "`mlflow models serve`", "echo": "the echo"}
    return [(names[name], speed) for name, speed in found.items()]
