"""Every number of the READMEs is one that was measured."""

import json
import math
import re
from itertools import pairwise

import pytest
from readmes import blocks, prose
from test_notebooks import read, texts

from benchmarks.search import LABELS
from chapters import CHAPTERS
from wine_quality.config import ROOT, Settings
from wine_quality.models import BASELINES
from wine_quality.schema import MEASUREMENTS

FRONT = ROOT / "README.md"
WORDS = prose(FRONT)
NOT_MEASURED = (  # versions, chapters, what the older tutorial said, and a reference
    r"Python 3\.11, 3\.12 or 3\.13|SQLAlchemy 2\.1|pandas 3\.1|[Cc]hapters? \d( and \d)?|notebook \d|S3|Version 1"
    r"|\b\d\. (?=[A-Z])|\b\d (?=training|experiment|orchestration|deployment|monitoring|scaling)"
    r"|\b9[09] %|an RMSE of 0\.08|goes from 0 to 10|UTF-8|CC BY 4\.0|47\(4\), 547–553, 2009|doi:\S+"
)

SHOWN = ("blend", "extra_trees_tuned", "xgboost", "linear", "mean")  # of the models, on the front page
MOST_WORDS = 1500


class Figures(dict):
    """Figures of a benchmark; those of several runs are formatted as a range where they differ as they are rounded."""

    def __format__(self, form: str) -> str:
        low, high = format(self["min"], form), format(self["max"], form)
        return low if low == high else f"{low} to {high}"


FILES = (ROOT / "benchmarks" / "results").glob("*.json")
RESULTS = {file.stem: json.loads(file.read_text(), object_hook=Figures) for file in FILES}
MEASURED = {  # what each page says of measurements, in its words
    "": [
        "runs the {tests[quick]:,} quick tests",
        "offline in {tests[minutes]:.0f} minutes on two cores",
        "runs all {tests[all]:,}",
        "On the {scores[wines][distinct]:,} distinct real rows",
        "the blend has an RMSE of {blend[nested][rmse]:.3f} and an R² of {blend[nested][r2]:.3f}",
        "Three panels over {simulation[weeks]} weeks",
        "until week {simulation[promoted][0]}",
    ],
    "docs/benchmarks.md": [
        "chapter 1 in {notebooks[chapter_seconds][notebooks]:.0f} seconds on two cores",
        "those of chapter 2 in {notebooks[chapter_seconds][experiment_tracking]:.0f}",
        "that of chapter 3 in {notebooks[chapter_seconds][orchestration]:.0f}",
        "that of chapter 4 in {notebooks[chapter_seconds][deployment]:.0f}",
        "that of chapter 5 in {notebooks[chapter_seconds][monitoring]:.0f}",
        "that of chapter 6 in {notebooks[chapter_seconds][scaling]:.0f}",
        "a hyperparameter search finds has an RMSE of {search[searches][hyperopt][pick][rmse]:.3f} "
        "and an R² of {search[searches][hyperopt][pick][r2]:.3f}",
        "the blend has an RMSE of {blend[nested][rmse]:.3f} and an R² of {blend[nested][r2]:.3f}",
        "each family has {search[searches][hyperopt][blend][rmse]:.3f} and {search[searches][hyperopt][blend][r2]:.3f}",
        "a run takes {run[seconds]:.0f} seconds",
        "takes {run[seconds_from_load_to_push]:.0f} of them",
        "at most {run[peak_memory_gb][max]:.1f} GB of memory",
        "The first run takes {run[first_run_seconds]:.0f} seconds",
        "at most {overhead[flow_over_plain][max]:.2f} times as long",
        "The set-up takes {setup[seconds_with_packages_cached]:.0f} seconds",
        "{setup[environment_gb]:.2f} GB of disk",
    ],
    "docs/versions.md": [
        "an RMSE of {scores[models][extra_trees_tuned][folds][rmse]:.2f}, by cross-validation",
    ],
    "experiment_tracking": [
        "It takes {blend[cpu_seconds][min]:.1f} to {blend[cpu_seconds][max]:.1f} CPU seconds to fit",
        "at most {tracking[sqlite][share][max]:.1%} of the time of a search of {tracking[trials]} trials",
        "at most {tracking[server][share][max]:.1%} through",
        "below {gate[between_seeds][gain_of_a_seed_in_19_of_20]:.4f}",
        "a minimum effect, {gate[minimum_gain]:g} points",
        "on eight splits of the {gate[rows]:,} distinct rows",
    ],
    "orchestration": [
        "the worker is ready | {orchestration[up_ready_seconds]:.0f} s |",
        "is *Running* | {orchestration[seconds_from_quick_run_to_running]:.0f} s |",
        "nothing cached | {orchestration[fresh_seconds]:.0f} s |",
        "with cached results | {orchestration[cached_seconds]:.0f} s, "
        "{orchestration[cached_over_fresh]:.2f} of the time without |",
        "as plain functions | {overhead[flow_over_plain]:.2f} |",
        "after six runs | {orchestration[up_memory_gb]:.2f} GB; {orchestration[up_memory_gb_after_six_runs]:.2f} GB |",
    ],
    "deployment": [
        "it was {intervals[gate_set][all rows][coverage]:.1%}: "
        "{intervals[gate_set][red][coverage]:.1%} for red and "
        "{intervals[gate_set][white][coverage]:.1%} for white",
        "The coverage was {intervals[gate_set][quality 0 to 4][coverage]:.1%} for rows with a quality of 4 or less, "
        "and {intervals[gate_set][quality 7 to 10][coverage]:.1%} for those with 7 or more",
        "Adding and subtracting {intervals[one_half_width]:.2f} points for every row",
        "this service | {serving[requests_per_second][service]:,.0f} |",
        "`mlflow models serve` | {serving[requests_per_second][mlflow]:,.0f} |",
        "the echo | {serving[requests_per_second][echo]:,.0f} |",
        "by that of `mlflow models serve` | {serving[service_over_mlflow]:.0f} times |",
        "this service, divided by that of the echo | {serving[service_over_echo]:.2f} |",
        "p99 of this service | {serving[half_load_p99_ms]:.1f} ms |",
        "p99 of this service, divided by that of the echo | {serving[half_load_p99_over_echo]:.1f} |",
        "in the shadow, divided by that without | {serving[half_load_p99_with_shadow_over_without]:.2f} |",
        "by that of a direct call to the pipeline | {serving[thousand_rows_over_in_process]:.2f} |",
    ],
    "monitoring": [
        "It took {simulation[seconds]:.0f} seconds on two cores",
        "after the first promotion was {simulation[rmse_with_loop]:.3f}. "
        "The first champion would have had an RMSE of {simulation[rmse_without]:.3f} on the same rows",
    ],
    "scaling": [
        "were scored by two processes {batches[two_workers_against_one]:.2f} times as fast as by one",
        "its ONNX graph alone scores {batches[graph_alone_rows_per_second]:,.0f} rows a second",
        "two processes {trials[time][two_processes_against_one]:.2f} times as fast as one",
        "two Dask workers {trials[time][two_workers_of_dask_against_one_process]:.2f} times",
        "were only {trials[time][two_processes_against_this_one]:.2f} times as fast",
        "it took {group[seconds_with_over_without]:.2f} times as long with it",
        "needed {group[memory_with_over_without]:.2f} times the memory",
        "MB on SQLite and {shared_servers[postgresql][mb][mlflow]:.1f} MB on PostgreSQL",
        "takes {shared_servers[sqlite][mb][mlflow]:.1f} MB on SQLite",
        "Prefect's {shared_servers[sqlite][mb][prefect]:.1f} MB and {shared_servers[postgresql][mb][prefect]:.1f} MB",
    ],
}


def measured(page: str) -> list[str]:
    phrases = [re.sub(r"(?<=\d)%", " %", phrase.format(**RESULTS)) for phrase in MEASURED[page]]
    pages = {
        "": front_page,
        "experiment_tracking": gate_and_search_rows,
        "monitoring": drift_rows,
        "scaling": scaling_rows,
        "docs/benchmarks.md": score_rows,
    }
    return phrases + pages.get(page, list)()


def front_page() -> list[str]:
    """Return the phrases of the front page whose figures are worked out."""
    models, simulation = RESULTS["scores"]["models"], RESULTS["simulation"]
    folds = {name: models[name]["folds"] for name in BASELINES}
    quiet_drift, shift, *_ = (week for week, kinds in simulation["alerts"].items() if "drift" in kinds)
    return [
        f"in at most {max(one['max'] for one in RESULTS['start']['seconds'].values()):.0f} seconds",
        f"about {round(100 * folds['extra_trees_tuned']['r2'], -1):.0f} % of the variance",
        f"in week {quiet_drift}, and the mix of colours first drifts in week {shift}",
        *(f"{minutes_to_run(chapter)} min" for chapter in CHAPTERS.values()),
        *(f"{name} {folds[name]['rmse']:z.3f} {folds[name]['r2']:z.3f}" for name in SHOWN),
        *three_worlds(),
    ]


def score_rows() -> list[str]:
    """Return the rows of the table of scores, the best first."""
    folds = {name: RESULTS["scores"]["models"][name]["folds"] for name in BASELINES}
    best_first = sorted(folds, key=lambda name: folds[name]["rmse"])
    return [f"| {name} | {folds[name]['rmse']:z.3f} | {folds[name]['r2']:z.3f} |" for name in best_first]


def minutes_to_run(chapter: str) -> int:
    """Return how long the notebooks of a chapter and the commands of its page take, in begun minutes."""
    walked = RESULTS["walk"]["seconds"][f"{chapter}/README.md"]
    commands = sum(seconds for command, seconds in walked.items() if command not in ("make lab", "make notebooks"))
    notebooks = RESULTS["notebooks"]["chapter_seconds"].get(chapter, {"max": 0})["max"]
    return math.ceil((commands + notebooks) / 60)


def three_worlds() -> list[str]:
    """Return what notebook 3 shows of the three worlds, in the words of the front page."""
    notebook = read(ROOT / "notebooks" / "03-find-the-leak.ipynb")
    shown = "\n".join(text for cell in notebook.cells for text in texts(cell))
    r2 = dict(re.findall(r"^\d+ +(.+?) +extra_trees_tuned +(\d\.\d+)", shown, re.MULTILINE))
    pair = r2["Kaggle's pair"]
    (linear,) = {f"{float(found):.1f}" for found in re.findall(r" linear +(0\.\d+)  0", shown)}
    return [
        f"where {re.search(r'leaked: ([0-9.]+)%', shown)[1]} % of the validation rows are also in the training set",
        f"extra trees have {pair}; in cross-validation on all rows, where duplicates leak, {r2['all rows']}; "
        f"on distinct rows, where nothing leaks, {r2['distinct rows']}",
        f"The linear model stays at about {linear} in all three",
    ]


@pytest.mark.parametrize("page", MEASURED)
def test_a_page_says_what_was_measured(page):
    path = ROOT / page
    text = (path if path.is_file() else path / "README.md").read_text()
    lines, words = text.splitlines(), " ".join(text.split()) if page else WORDS
    rows = re.compile(r"\| .* \|").fullmatch
    assert [phrase for phrase in measured(page) if phrase not in (lines if rows(phrase) else words)] == []


def test_no_other_number_stands_on_the_front_page():
    rest = WORDS
    for phrase in measured(""):
        rest = rest.replace(phrase, " ")
    assert re.findall(r"\S*\d\S*", re.sub(NOT_MEASURED, " ", rest)) == []


def test_the_front_page_is_short():
    assert len(WORDS.split()) <= MOST_WORDS


def test_what_make_run_prints_is_what_it_printed():
    (shown,) = (block.text for block in blocks(FRONT) if block.language == "text")
    for name, line in RESULTS["run"]["printed"].items():
        assert f"{name:<9} {line}\n" in shown


def with_interval(value: float, low: float, high: float) -> str:
    return f"{value:z.4f} ({low:z.4f} to {high:z.4f})"


def gate_and_search_rows() -> list[str]:
    """Return the rows of the tables of chapter 2: the gate, what each step gained, and how the searches compare."""
    gate, found, rows = RESULTS["gate"], RESULTS["search"], []
    rules = ("the gate", "the gate without the minimum effect", "the 95 % interval over the rows alone, each time")
    for rule, chains in zip(rules, gate["unchanged"].values(), strict=True):
        rows.append(f"| {rule} | {chains['promoting']} of {gate['chains']} |")
    for chains in gate["better"].values():
        shares = [f"{share:.0%}" for share in [*chains["promoted_at_use"].values(), chains["promoted_within"]]]
        rows.append(f"| {chains['gain']:.3f} | {' | '.join(shares)} |".replace("%", " %"))
    rows.append(f"| extra trees, library defaults | {found['library_defaults_rmse']:.4f} | | |")
    steps = {
        "extra_trees_tuned": "extra trees, tuned by hand",
        "pick": "the best model of hyperopt's TPE",
        "blend": "the blend of its finalists",
    }
    for name, gain in found["gains"].items():
        before, first = (with_interval(*gain[f"over_{what}"]) for what in ("the_step_before", "library_defaults"))
        rows.append(f"| {steps[name]} | {gain['rmse']:.4f} | {before} | {first} |")
    for name, search in found["searches"].items():
        loss = search.get("against_random", {}).get("loss")
        marks = [loss[mark] for mark in ("40", "60", "100")] if loss else []
        cells = [with_interval(one["mean"], one["low"], one["high"]) for one in marks] or ["0"] * 3
        scored = [f"{search[what]['rmse']:.4f}" for what in ("pick", "blend")]
        rows.append(f"| {' | '.join([LABELS[name], *cells, *scored])} |")
    blend = RESULTS["blend"]
    for name, what in {"shipped": "the blend as tuned by hand", "nested": "the blend chosen in each fold"}.items():
        one = blend[name]
        rows.append(f"| {what} | {one['rmse']:.4f} | {one['r2']:.3f} | {with_interval(*one['gain_over_trees'])} |")
    return [row.replace("-", "−") for row in rows]


def scaling_rows() -> list[str]:
    """Return the rows of the tables of chapter 6: many rows, training on them, and what a window costs."""
    found, rows = RESULTS["rows"], []
    for size, ways in found["split"].items():
        cells = [ways.get(way) for way in ("in_memory", "parts_1", "parts_2")]
        shown = [f"{one['seconds']:.1f} s, {one['peak_gb']:.1f} GB" if one else "" for one in cells]
        rows.append(f"| {int(size):,} | {' | '.join(shown)} |".replace("|  |", "| |"))
    most, tenth = (found["split"][size]["parts_2"]["seconds"] for size in ("100000000", "10000000"))
    rows += [f"From 10,000,000 to 100,000,000 rows, the time with two processes grew by a factor of {most / tenth:.1f}"]
    for way, one in found["training"].items():
        name = way.replace("_", " ")
        rows.append(f"| {name} | {one['seconds']:.0f} s | {one['peak_gb']:.1f} GB | {one['rmse']:.4f} |")
    for size, one in found["whole_flow"].items():
        rows += [f"from {int(size):,} rows", f"took {one['seconds'] / 60:.0f} minutes"]
        rows += [f"at most {one['peak_gb']:.2f} GB with `WINE_MEMORY={one['memory_setting_gb']:.0f}GB`"]
    (page, all_runs), (page_on, all_on) = (slowest(RESULTS["shared_servers"][one]) for one in ("sqlite", "postgresql"))
    rows += [f"at most {page:.2f} s on SQLite and {page_on:.2f} s on PostgreSQL"]
    rows += [f"in one request takes up to {max(all_runs, all_on):.1f} s"]
    for window, one in RESULTS["trials"]["quality"]["after_trials"]["40"].items():
        gap = with_interval(*(one["over_window_1"][name] for name in ("mean", "low", "high")))
        rows.append(f"| {window} | {one['mean_best_loss']:.4f} | {gap if window != '1' else ''} |")
    return [row.replace("-", "−").replace("|  |", "| |") for row in rows]


def slowest(servers: dict) -> tuple[float, float]:
    """Return the longest time of the requests for a page of runs, and that of the request for all runs."""
    most = {name: one["max"] for name, one in servers["seconds"].items()}
    all_runs = most.pop("mlflow_runs_all_1000")
    return max(most.values()), all_runs


def drift_rows() -> list[str]:
    """Return the rows of the table of alerts: calm weeks, in which all are false, and weeks that have shifted."""
    found = RESULTS["drift"]
    calm = {rule: [one[rule]["share"] for one in found["calm"].values()] for rule in ("whole_table", "by_colour")}
    shares = {
        "calm, mean of 18 cases": {rule: sum(all_of) / len(all_of) for rule, all_of in calm.items()},
        "calm, worst case": {rule: max(all_of) for rule, all_of in calm.items()},
    }
    outdated = {"outdated reference": found["outdated_reference"]["trained on a third white"]}
    for case, rules in (found["shift"] | outdated).items():
        shares[case.replace("%", " %")] = {rule: one["share"] for rule, one in rules.items()}
    return [
        f"| {case} | {one['whole_table']:.1%} | {one['by_colour']:.1%} |".replace("%", " %").replace("  %", " %")
        for case, one in shares.items()
    ]


def test_the_gate_and_its_minimum_effect_hold_what_was_measured():
    gate = RESULTS["gate"]
    assert gate["splits"] == 8
    assert next(iter(gate["unchanged"].values()))["promoting"] <= 0.05 * gate["chains"]
    default = Settings.model_fields["minimum_gain"].default
    assert gate["between_seeds"]["gain_of_a_seed_in_19_of_20"] < default == gate["minimum_gain"]


def test_the_weeks_of_the_simulation_are_described_as_they_came_out():
    measured, page = RESULTS["simulation"], (ROOT / "monitoring" / "README.md").read_text()
    assert measured["all_the_same"]
    described = re.findall(r"- \*\*Weeks? ([\d and]+): ([a-z ]+)\.\*\*", " ".join(page.split()))
    weeks = {what: [int(week) for week in numbers.split(" and ")] for numbers, what in described}
    assert weeks["promoted"] == measured["promoted"]
    assert measured["promoted_from_shadow"] == weeks["promoted"][:1]
    assert weeks["too early"] + weeks["not significant"] + weeks["wrong labels"] == measured["rejected"]
    assert {17, 18, 19} <= set(measured["rejected_in_shadow"])
    for promoted, next_one in pairwise([*weeks["promoted"], measured["weeks"] + 1]):
        calm = range(promoted + 4, next_one)
        assert not [week for week in calm if "drift" in measured["alerts"].get(str(week), [])]
    bad = [int(week) for week, kinds in measured["alerts"].items() if kinds == ["bad data"]]
    assert bad == weeks["bad data"]
    assert measured["alerts"][str(weeks["drift without harm"][0])] == ["drift"]


def test_the_data_card_gives_the_schema_and_the_figures_that_were_measured():
    lines = (ROOT / "wine_data" / "README.md").read_text().splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    rows = {first: rest for first, *rest in cells}
    shown = {name: (rows[name][1], rows[name][2]) for name in MEASUREMENTS}
    assert shown == {name: (m.unit, f"{m.low:g} to {m.high:g}") for name, m in MEASUREMENTS.items()}
    found = RESULTS["sample"]
    trained_on_sample, in_folds = found["trained_on_sample_tested_on_real"]["r2"], found["sample_in_5_folds"]["r2"]
    largest_mean = f"{found['largest_relative_difference_of_a_column_mean']:.1%}".replace("%", " %")
    figures = {
        "rows": f"{found['rows']:,}",
        "distinct rows": f"{sum(found['distinct_rows'].values()):,}",
        "equal to a real row": str(found["equal_to_a_real_wine"]),
        "R², trained on the sample, tested on all distinct real rows": f"{trained_on_sample:.3f}",
        "R², within the sample (5 folds)": f"{in_folds:.3f}",
        "largest difference of a column's mean, per colour": largest_mean,
        "largest difference of a correlation, per colour": f"{found['largest_difference_of_a_correlation']:.2f}",
    }
    assert {name: rows[name][0] for name in figures} == figures
