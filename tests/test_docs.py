"""Every number of the READMEs is one that was measured."""

import json
import math
import re

import pytest
from readmes import blocks, prose
from test_notebooks import read, texts

import chapters
from benchmarks.search import LABELS
from notebooks.execute import CHAPTERS
from wine_quality.config import ROOT, Settings
from wine_quality.models import BASELINES
from wine_quality.schema import MEASUREMENTS

FRONT = ROOT / "README.md"
WORDS = prose(FRONT)
CARD = (ROOT / "wine_data" / "README.md").read_text()
DEFAULT = Settings.model_fields["minimum_gain"].default
NOT_MEASURED = (  # versions, chapters, what the older tutorial said, and a reference
    r"Python 3\.11, 3\.12 or 3\.13|SQLAlchemy 2\.1|pandas 3\.1|[Cc]hapters? \d( and \d)?|notebook \d|S3|Version 1"
    r"|\b\d\. (?=[A-Z])|\b\d (?=training|experiment|orchestration|deployment|monitoring)"
    r"|\b99 %|an RMSE of 0\.08|goes from 0 to 10|UTF-8|CC BY 4\.0|47\(4\), 547–553, 2009|doi:\S+"
)


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def span(found: dict, form: str = ".0f") -> str:
    return f"{found['min']:{form}} to {found['max']:{form}}"


def measured() -> list[str]:
    """Return what the front page says of measurements, in its words, with the figures of the results."""
    run, setup, tests, start = results("run"), results("setup"), results("tests"), results("start")["seconds"]
    notebooks, found = results("notebooks")["chapter_seconds"], results("scores")
    simulation = results("simulation")
    first, second, last = (span(notebooks[name]) for name in CHAPTERS)
    wines, trees = found["wines"], found["models"]["extra_trees_tuned"]
    return [
        f"{tests['quick']:,} of them, in {tests['minutes']:.0f} minutes on two cores",
        f"runs all {tests['all']:,}",
        f"chapter 1 in {first} seconds on two cores",
        f"those of chapter 2 in {second}",
        f"that of chapter 5 in {last}",
        f"in at most {max(one['max'] for one in start.values()):.0f} seconds",
        f"about {round(100 * trees['folds']['r2'], -1):.0f} % of the variance",
        f"On the {wines['distinct']:,} distinct real wines",
        *nested_scores(),
        f"a run takes {span(run['seconds'])} seconds",
        f"{span(run['seconds_from_load_to_push'])} of them from the wine to the bucket",
        f"at most {run['peak_memory_gb']['max']:.1f} GB of memory",
        f"the first run {run['first_run_seconds']:.0f} seconds",
        f"at most {results('overhead')['flow_over_plain']['max']:.2f} times as long",
        f"The set-up takes {span(setup['seconds_with_packages_cached'])} seconds",
        f"{setup['environment_gb']:.2f} GB of disk",
        f"an RMSE of {trees['folds']['rmse']:.2f}, by cross-validation",
        f"Three panels over the {simulation['weeks']} weeks",
        f"in week {quiet_drift(simulation)} and from week {simulation['retrained'][0]} on",
        f"until week {simulation['promoted'][0]}",
        "at 200 words a minute",
        *(f"{minutes_to_read(chapter)} min {minutes_to_run(chapter)} min" for chapter in chapters.CHAPTERS.values()),
        *table_of_models(),
        *three_worlds(),
    ]


def quiet_drift(simulation: dict) -> int:
    """Return the week of drift after which no retraining was requested."""
    return next(int(week) for week, kinds in simulation["alerts"].items() if kinds == ["drift"])


def minutes_to_read(chapter: str) -> int:
    """Return how long the page and the notebooks of a chapter take at 200 words a minute, to five minutes."""
    notebooks = [cell.source for path in (ROOT / chapter).glob("*.ipynb") for cell in read(path).cells]
    words = sum(len(text.split()) for text in [prose(ROOT / chapter / "README.md"), *notebooks])
    return 5 * max(1, round(words / 200 / 5))


def minutes_to_run(chapter: str) -> int:
    """Return how long the notebooks of a chapter and the commands of its page take, in begun minutes."""
    walked = results("walk")["seconds"][f"{chapter}/README.md"]
    commands = sum(seconds for command, seconds in walked.items() if command not in ("make lab", "make notebooks"))
    notebooks = results("notebooks")["chapter_seconds"].get(chapter, {"max": 0})["max"]
    return math.ceil((commands + notebooks) / 60)


def table_of_models() -> list[str]:
    """Return the scores of the models, the best in the folds first."""
    models = results("scores")["models"]
    best_first = sorted(BASELINES, key=lambda name: models[name]["folds"]["rmse"])
    return [
        " ".join([name, *(f"{models[name]['folds'][measure]:z.3f}" for measure in ("rmse", "r2"))])
        for name in best_first
    ]


def nested_scores() -> list[str]:
    """Return what the search and its blend are worth by nested cross-validation, in the words of the front page."""
    pick, blend = (results("search")["searches"]["hyperopt"][what] for what in ("pick", "blend"))
    return [
        f"That pick has an RMSE of {pick['rmse']:.3f} and an R² of {pick['r2'][0]:.3f}",
        f"of each family {blend['rmse']:.3f} and {blend['r2'][0]:.3f}",
    ]


def three_worlds() -> list[str]:
    """Return what notebook 3 shows of the three worlds, in the words of the front page."""
    notebook = read(ROOT / "notebooks" / "03-find-the-leak.ipynb")
    shown = "\n".join(text for cell in notebook.cells for text in texts(cell))
    r2 = dict(re.findall(r"^\d+ +(.+?) +extra_trees_tuned +(\d\.\d+)", shown, re.MULTILINE))
    pair = r2["Kaggle's pair"]
    (linear,) = {f"{float(found):.1f}" for found in re.findall(r" linear +(0\.\d+)  0", shown)}
    return [
        f"where {re.search(r'leaked: ([0-9.]+)%', shown)[1]} % of the tested wines were trained on",
        f"extra trees have {pair}; in folds of all rows, where repeated wines leak, {r2['all rows']}; "
        f"on distinct wines, where no copy leaks, {r2['distinct wines']}",
        f"The linear model stays at about {linear} in all three",
    ]


@pytest.mark.parametrize("told", measured())
def test_the_front_page_tells_what_was_measured(told):
    assert told in WORDS


def test_no_other_number_stands_on_the_front_page():
    rest = WORDS
    for told in measured():
        rest = rest.replace(told, " ")
    assert re.findall(r"\S*\d\S*", re.sub(NOT_MEASURED, " ", rest)) == []


def test_what_make_run_prints_is_what_it_printed():
    (shown,) = (block.text for block in blocks(FRONT) if block.language == "text")
    for name, line in results("run")["printed"].items():
        assert f"{name:<9} {line}\n" in shown


def rows_of(card: str) -> dict[str, list[str]]:
    """Return the cells of each table row of a card by its first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    return {first.strip("`"): rest for first, *rest in rows}


STEPS = {
    "extra_trees_tuned": "extra trees, tuned by hand",
    "pick": "the pick of hyperopt's TPE",
    "blend": "its blend",
}


def with_interval(value: float, low: float, high: float) -> str:
    return f"{value:z.4f} ({low:z.4f} to {high:z.4f})"


def search_rows() -> list[str]:
    """Return the rows of the two tables of chapter 2: what each step gained, and how the searches compare."""
    found = results("search")
    rows = [f"| extra trees, library defaults | {found['library_defaults_rmse']:.4f} | | |"]
    for step, gain in found["gains"].items():
        before, first = (with_interval(*gain[f"over_{what}"]) for what in ("the_step_before", "library_defaults"))
        rows.append(f"| {STEPS[step]} | {gain['rmse']:.4f} | {before} | {first} |")
    for name, search in found["searches"].items():
        loss = search.get("against_random", {}).get("loss")
        marks = [loss[mark] for mark in ("40", "60", "100")] if loss else []
        cells = [with_interval(one["mean"], one["low"], one["high"]) for one in marks] or ["0"] * 3
        scored = [f"{search[what]['rmse']:.4f}" for what in ("pick", "blend")]
        rows.append(f"| {' | '.join([LABELS[name], *cells, *scored])} |")
    return [row.replace("-", "−") for row in rows]


def test_what_each_step_and_each_search_gains_is_what_was_measured():
    lines = (ROOT / "experiment_tracking" / "README.md").read_text().splitlines()
    assert [row for row in search_rows() if row not in lines] == []


def test_what_the_gate_lets_through_is_what_was_measured():
    measured = results("gate")
    text = (ROOT / "experiment_tracking" / "README.md").read_text()
    unchanged = [found["promoting"] for found in measured["unchanged"].values()]
    rules = ("the gate", "without the minimum effect", "the rows alone at the 95 % level, each time")
    for rule, promoting in zip(rules, unchanged, strict=True):
        assert f"| {rule} | {promoting} of {measured['chains']} |" in text
    for found in measured["better"].values():
        shares = [*found["promoted_at_use"].values(), found["promoted_within"]]
        assert " | ".join([f"| {found['gain']:.3f}", *(f"{share:.0%}".replace("%", " %") for share in shares)]) in text
    words = " ".join(text.split())
    assert f"below {measured['between_seeds']['gain_of_a_seed_in_19_of_20']:.4f}" in words
    assert f"a minimum effect, {measured['minimum_gain']:g} points" in words
    assert f"on eight splits of the {measured['rows']:,} distinct wines" in words
    assert measured["splits"] == 8
    assert unchanged[0] <= 0.05 * measured["chains"]


def test_the_minimum_effect_is_what_nearly_every_change_of_seed_stays_below():
    assert results("gate")["between_seeds"]["gain_of_a_seed_in_19_of_20"] < DEFAULT
    assert results("gate")["minimum_gain"] == DEFAULT


def test_the_data_card_gives_the_units_and_limits_of_the_schema():
    rows = rows_of(CARD)
    told = {name: (rows[name][1], rows[name][2]) for name in MEASUREMENTS}
    assert told == {name: (m.unit, f"{m.low:g} to {m.high:g}") for name, m in MEASUREMENTS.items()}


def test_the_data_card_gives_the_figures_that_were_measured():
    found, rows = results("sample"), rows_of(CARD)
    figures = {
        "rows": f"{found['rows']:,}",
        "distinct wines": f"{sum(found['distinct_rows'].values()):,}",
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


def test_the_cost_of_tracking_is_what_was_measured():
    measured = results("tracking")
    sqlite, server = (f"{measured[kind]['share']['max']:.1%}".replace("%", " %") for kind in ("sqlite", "server"))
    words = " ".join((ROOT / "experiment_tracking" / "README.md").read_text().split())
    assert f"at most {sqlite} of the time of a search of {measured['trials']} trials" in words
    assert f"at most {server} through" in words


def test_the_simulation_is_described_as_it_came_out():
    measured = results("simulation")
    assert measured["all_the_same"]
    text = " ".join((ROOT / "monitoring" / "README.md").read_text().split())
    assert f"It took {span(measured['seconds'])} seconds on two cores" in text
    with_loop, without = measured["rmse_with_loop"], measured["rmse_without"]
    assert f"the RMSE was {with_loop:.3f}. The first champion alone would have had {without:.3f} on them" in text
    told = re.findall(r"- \*\*Weeks? ([\d and]+): ([a-z ]+)\.\*\*", text)
    weeks = {what: [int(week) for week in numbers.split(" and ")] for numbers, what in told}
    assert weeks["promoted"] == measured["promoted"]
    assert weeks["too early"] + weeks["wrong labels"] == measured["rejected"]
    assert [week for week, kinds in measured["alerts"].items() if kinds == ["bad data"]] == [
        str(week) for week in weeks["bad data"]
    ]
    assert measured["alerts"][str(weeks["drift without harm"][0])] == ["drift"]


def test_what_it_costs_to_operate_is_what_was_measured():
    measured, over = results("orchestration"), results("overhead")["flow_over_plain"]
    first, later = span(measured["up_memory_gb"], ".2f"), f"{measured['up_memory_gb_after_six_runs']:.2f}"
    text = (ROOT / "orchestration" / "README.md").read_text()

    for row in (
        f"all four of them answer | {span(measured['up_ready_seconds'])} s",
        f"is *Running* | {span(measured['seconds_from_quick_run_to_running'])} s",
        f"fresh | {span(measured['fresh_seconds'])} s",
        f"with cached results | {span(measured['kept_seconds'])} s, {span(measured['kept_over_fresh'], '.2f')} of that",
        f"as plain functions | {span(over, '.2f')}",
        f"after six runs | {first} GB; {later} GB",
    ):
        assert f"{row} |" in text


def test_the_speed_of_the_service_is_what_was_measured():
    measured = results("serving")
    text = (ROOT / "deployment" / "README.md").read_text()

    for row in (
        *(f"{kind} | {span(found, ',.0f')}" for kind, found in speeds(measured["requests_per_second"])),
        f"by those of `mlflow models serve` | {span(measured['service_over_mlflow'], '.0f')} times",
        f"by those of the echo | {span(measured['service_over_echo'], '.2f')}",
        f"99 of 100 answers come within | {span(measured['half_load_p99_ms'], '.1f')} ms",
        f"by that of the pipeline in the same process | {span(measured['thousand_rows_over_in_process'], '.2f')}",
    ):
        assert f"{row} |" in text


def speeds(found: dict) -> list[tuple[str, dict]]:
    """Return the speed of each server by what the table calls it."""
    names = {"service": "this service", "mlflow": "`mlflow models serve`", "echo": "the echo"}
    return [(names[name], speed) for name, speed in found.items()]
