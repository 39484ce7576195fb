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
NOT_MEASURED = (  # versions, chapters, what the older tutorial said, and a reference
    r"Python 3\.11, 3\.12 or 3\.13|SQLAlchemy 2\.1|pandas 3\.1|[Cc]hapters? \d( and \d)?|notebook \d|S3|Version 1"
    r"|\b\d\. (?=[A-Z])|\b\d (?=training|experiment|orchestration|deployment|monitoring)"
    r"|\b99 %|an RMSE of 0\.08|goes from 0 to 10|UTF-8|CC BY 4\.0|47\(4\), 547–553, 2009|doi:\S+"
)


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def span(found: dict, form: str = ".0f") -> str:
    return f"{found['min']:{form}} to {found['max']:{form}}"


def percent(share: float, form: str = ".1%") -> str:
    return f"{share:{form}}".replace("%", " %")


def front_page() -> list[str]:
    """Return what the front page says of measurements, in its words, with the figures of the results."""
    run, setup, tests, start = results("run"), results("setup"), results("tests"), results("start")["seconds"]
    scores, search, simulation = results("scores"), results("search")["searches"]["hyperopt"], results("simulation")
    first, second, last = (span(results("notebooks")["chapter_seconds"][name]) for name in CHAPTERS)
    trees, pick, blend = scores["models"]["extra_trees_tuned"]["folds"], search["pick"], search["blend"]
    quiet_drift = next(week for week, kinds in simulation["alerts"].items() if kinds == ["drift"])
    return [
        f"{tests['quick']:,} of them, in {tests['minutes']:.0f} minutes on two cores",
        f"runs all {tests['all']:,}",
        f"chapter 1 in {first} seconds on two cores",
        f"those of chapter 2 in {second}",
        f"that of chapter 5 in {last}",
        f"in at most {max(one['max'] for one in start.values()):.0f} seconds",
        f"about {round(100 * trees['r2'], -1):.0f} % of the variance",
        f"On the {scores['wines']['distinct']:,} distinct real wines",
        f"That pick has an RMSE of {pick['rmse']:.3f} and an R² of {pick['r2']:.3f}",
        f"of each family {blend['rmse']:.3f} and {blend['r2']:.3f}",
        f"a run takes {span(run['seconds'])} seconds",
        f"{span(run['seconds_from_load_to_push'])} of them from the wine to the bucket",
        f"at most {run['peak_memory_gb']['max']:.1f} GB of memory",
        f"the first run {run['first_run_seconds']:.0f} seconds",
        f"at most {results('overhead')['flow_over_plain']['max']:.2f} times as long",
        f"The set-up takes {span(setup['seconds_with_packages_cached'])} seconds",
        f"{setup['environment_gb']:.2f} GB of disk",
        f"an RMSE of {trees['rmse']:.2f}, by cross-validation",
        f"Three panels over the {simulation['weeks']} weeks",
        f"in week {quiet_drift} and from week {simulation['retrained'][0]} on",
        f"until week {simulation['promoted'][0]}",
        "at 200 words a minute",
        *(f"{minutes_to_read(chapter)} min {minutes_to_run(chapter)} min" for chapter in chapters.CHAPTERS.values()),
        *table_of_models(scores["models"]),
        *three_worlds(),
    ]


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


def table_of_models(models: dict) -> list[str]:
    """Return the scores of the models, the best in the folds first."""
    folds = {name: models[name]["folds"] for name in BASELINES}
    best_first = sorted(folds, key=lambda name: folds[name]["rmse"])
    return [f"{name} {folds[name]['rmse']:z.3f} {folds[name]['r2']:z.3f}" for name in best_first]


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


@pytest.mark.parametrize("phrase", front_page())
def test_the_front_page_says_what_was_measured(phrase):
    assert phrase in WORDS


def test_no_other_number_stands_on_the_front_page():
    rest = WORDS
    for phrase in front_page():
        rest = rest.replace(phrase, " ")
    assert re.findall(r"\S*\d\S*", re.sub(NOT_MEASURED, " ", rest)) == []


def test_what_make_run_prints_is_what_it_printed():
    (shown,) = (block.text for block in blocks(FRONT) if block.language == "text")
    for name, line in results("run")["printed"].items():
        assert f"{name:<9} {line}\n" in shown


def with_interval(value: float, low: float, high: float) -> str:
    return f"{value:z.4f} ({low:z.4f} to {high:z.4f})"


def search_rows() -> list[str]:
    """Return the rows of the two tables of chapter 2: what each step gained, and how the searches compare."""
    found = results("search")
    steps = ("extra trees, tuned by hand", "the pick of hyperopt's TPE", "its blend")
    rows = [f"| extra trees, library defaults | {found['library_defaults_rmse']:.4f} | | |"]
    for step, name in zip(steps, ("extra_trees_tuned", "pick", "blend"), strict=True):
        gain = found["gains"][name]
        before, first = (with_interval(*gain[f"over_{what}"]) for what in ("the_step_before", "library_defaults"))
        rows.append(f"| {step} | {gain['rmse']:.4f} | {before} | {first} |")
    for name, search in found["searches"].items():
        loss = search.get("against_random", {}).get("loss")
        marks = [loss[mark] for mark in ("40", "60", "100")] if loss else []
        cells = [with_interval(one["mean"], one["low"], one["high"]) for one in marks] or ["0"] * 3
        scored = [f"{search[what]['rmse']:.4f}" for what in ("pick", "blend")]
        rows.append(f"| {' | '.join([LABELS[name], *cells, *scored])} |")
    assert len(found["gains"]) == len(steps)
    return [row.replace("-", "−") for row in rows]


def gate_phrases() -> list[str]:
    """Return what the gate lets through."""
    gate = results("gate")
    rules = ("the gate", "without the minimum effect", "the rows alone at the 95 % level, each time")
    phrases = []
    for rule, found in zip(rules, gate["unchanged"].values(), strict=True):
        phrases.append(f"| {rule} | {found['promoting']} of {gate['chains']} |")
    for found in gate["better"].values():
        shares = [*found["promoted_at_use"].values(), found["promoted_within"]]
        phrases.append(" | ".join([f"| {found['gain']:.3f}", *(percent(share, ".0%") for share in shares)]))
    return [
        *phrases,
        f"below {gate['between_seeds']['gain_of_a_seed_in_19_of_20']:.4f}",
        f"a minimum effect, {gate['minimum_gain']:g} points",
        f"on eight splits of the {gate['rows']:,} distinct wines",
    ]


def experiment_tracking() -> list[str]:
    tracking = results("tracking")
    sqlite, server = (percent(tracking[kind]["share"]["max"]) for kind in ("sqlite", "server"))
    trials = f"at most {sqlite} of the time of a search of {tracking['trials']} trials"
    return [*search_rows(), *gate_phrases(), trials, f"at most {server} through"]


def orchestration() -> list[str]:
    found, over = results("orchestration"), results("overhead")["flow_over_plain"]
    first, later = span(found["up_memory_gb"], ".2f"), f"{found['up_memory_gb_after_six_runs']:.2f}"
    return [
        f"all four of them answer | {span(found['up_ready_seconds'])} s |",
        f"is *Running* | {span(found['seconds_from_quick_run_to_running'])} s |",
        f"fresh | {span(found['fresh_seconds'])} s |",
        f"with cached results | {span(found['kept_seconds'])} s, {span(found['kept_over_fresh'], '.2f')} of that |",
        f"as plain functions | {span(over, '.2f')} |",
        f"after six runs | {first} GB; {later} GB |",
    ]


def deployment() -> list[str]:
    found = results("serving")
    names = {"service": "this service", "mlflow": "`mlflow models serve`", "echo": "the echo"}
    return [
        *(f"{names[name]} | {span(speed, ',.0f')} |" for name, speed in found["requests_per_second"].items()),
        f"by those of `mlflow models serve` | {span(found['service_over_mlflow'], '.0f')} times |",
        f"by those of the echo | {span(found['service_over_echo'], '.2f')} |",
        f"99 of 100 answers come within | {span(found['half_load_p99_ms'], '.1f')} ms |",
        f"by that of the pipeline in the same process | {span(found['thousand_rows_over_in_process'], '.2f')} |",
    ]


def monitoring() -> list[str]:
    found = results("simulation")
    with_loop, without = found["rmse_with_loop"], found["rmse_without"]
    return [
        f"It took {span(found['seconds'])} seconds on two cores",
        f"the RMSE was {with_loop:.3f}. The first champion alone would have had {without:.3f} on them",
    ]


@pytest.mark.parametrize("chapter", [experiment_tracking, orchestration, deployment, monitoring])
def test_a_chapter_says_what_was_measured(chapter):
    page = (ROOT / chapter.__name__ / "README.md").read_text()
    lines, words = page.splitlines(), " ".join(page.split())
    missing = [phrase for phrase in chapter() if phrase not in (lines if re.match(r"\| .* \|$", phrase) else words)]
    assert missing == []


def test_the_gate_and_its_minimum_effect_hold_what_was_measured():
    gate = results("gate")
    assert gate["splits"] == 8
    assert next(iter(gate["unchanged"].values()))["promoting"] <= 0.05 * gate["chains"]
    default = Settings.model_fields["minimum_gain"].default
    assert gate["between_seeds"]["gain_of_a_seed_in_19_of_20"] < default == gate["minimum_gain"]


def test_the_weeks_of_the_simulation_are_described_as_they_came_out():
    measured, page = results("simulation"), (ROOT / "monitoring" / "README.md").read_text()
    assert measured["all_the_same"]
    described = re.findall(r"- \*\*Weeks? ([\d and]+): ([a-z ]+)\.\*\*", " ".join(page.split()))
    weeks = {what: [int(week) for week in numbers.split(" and ")] for numbers, what in described}
    assert weeks["promoted"] == measured["promoted"]
    assert weeks["too early"] + weeks["wrong labels"] == measured["rejected"]
    bad = [int(week) for week, kinds in measured["alerts"].items() if kinds == ["bad data"]]
    assert bad == weeks["bad data"]
    assert measured["alerts"][str(weeks["drift without harm"][0])] == ["drift"]


def test_the_data_card_gives_the_schema_and_the_figures_that_were_measured():
    lines = (ROOT / "wine_data" / "README.md").read_text().splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    rows = {first: rest for first, *rest in cells}
    shown = {name: (rows[name][1], rows[name][2]) for name in MEASUREMENTS}
    assert shown == {name: (m.unit, f"{m.low:g} to {m.high:g}") for name, m in MEASUREMENTS.items()}
    found = results("sample")
    trained_on_sample, in_folds = found["trained_on_sample_tested_on_real"]["r2"], found["sample_in_5_folds"]["r2"]
    largest_mean = percent(found["largest_relative_difference_of_a_column_mean"])
    figures = {
        "rows": f"{found['rows']:,}",
        "distinct wines": f"{sum(found['distinct_rows'].values()):,}",
        "equal to a real wine": str(found["equal_to_a_real_wine"]),
        "R², trained on the sample, tested on all distinct real wines": f"{trained_on_sample:.3f}",
        "R², within the sample (5 folds)": f"{in_folds:.3f}",
        "largest difference of a column's mean, per colour": largest_mean,
        "largest difference of a correlation, per colour": f"{found['largest_difference_of_a_correlation']:.2f}",
    }
    assert {name: rows[name][0] for name in figures} == figures
