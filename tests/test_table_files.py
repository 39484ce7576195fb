"""Files of wine scored in chunks, on the disk of this machine."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wine_quality import table_files
from wine_quality.batches import ADDED, PredictionWriter, score_file
from wine_quality.errors import DataError
from wine_quality.models import build, fit, predict
from wine_quality.schema import FEATURES, from_matrix, to_matrix
from wine_quality.scoring import Scorer

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Content = str | bytes | pd.DataFrame | pa.Table


@pytest.fixture
def scorer(wines) -> Scorer:
    pipeline = fit(build("linear", 1), wines)
    return Scorer("7", "a run", "pipeline", "", None, lambda rows: predict(pipeline, from_matrix(rows))[:, np.newaxis])


@pytest.fixture
def score(scorer, tmp_path):
    def score(content: Content) -> Path:
        writer = PredictionWriter(scorer, NOW, "a file", io.BytesIO())
        score_file(write_file(tmp_path, content), tmp_path / "scored", writer)
        return tmp_path / "scored"

    return score


@pytest.fixture
def reasons(score):
    """A function that returns why a file with this content is refused, after its name."""

    def reasons(content: Content) -> str:
        with pytest.raises(DataError) as caught:
            score(content)
        path, _, reason = str(caught.value).partition(": ")
        assert Path(path).is_file()
        return reason

    return reasons


@pytest.fixture
def features(wines) -> pd.DataFrame:
    return wines[FEATURES]


def write_file(folder: Path, content: Content) -> Path:
    """Write text as a CSV, a table as Parquet, bytes as what only claims to be Parquet."""
    path = folder / ("wines.csv" if isinstance(content, str) else "wines.parquet")
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        pq.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pandas(content), path)
    return path


def as_csv(wines: pd.DataFrame, **kwargs) -> str:
    return wines.to_csv(index=False, **kwargs)


SPELLINGS = {
    "commas": as_csv,
    "semicolons": lambda wines: as_csv(wines, sep=";"),
    "spaces and capitals": lambda wines: as_csv(wines.rename(columns=lambda name: name.replace("_", " "))).upper(),
    "an index column": pd.DataFrame.to_csv,
    "decimal commas": lambda wines: as_csv(wines, sep=";", decimal=","),
    "names of other tools": lambda wines: as_csv(wines).replace("type", "colour", 1).replace("_", "."),
    "columns in another order": lambda wines: as_csv(wines[FEATURES[::-1]]),
    "Parquet": lambda wines: wines,
    "Parquet with an index": lambda wines: wines.set_axis([9, 4, 7, 1, 3, 2]),
    "Parquet of decimals": lambda wines: wines.assign(pH=[Decimal(str(cell)) for cell in wines["pH"]]),
    "Parquet of categories": lambda wines: wines.astype({"type": "category", "alcohol": "category"}),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_gives_the_same_scores(score, scorer, features, spell):
    content, expected = spell(features), scorer.score(to_matrix(features))
    path = score(content)
    scored = pd.read_csv(path, sep=None, engine="python") if isinstance(content, str) else pd.read_parquet(path)
    assert scored["score"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert (scored["quality"] == np.rint(expected)).all()
    assert set(scored["model_version"].astype(str)) == {"7"}
    assert set(scored["scored_at"]) == {NOW.isoformat()}
    assert scored["prediction_id"].is_unique


def test_blanks_are_scored(score, scorer, features):
    blank = features.assign(pH=[np.nan, *features["pH"][1:]], chlorides=np.nan)
    for scored in (pd.read_csv(score(as_csv(blank))), pd.read_parquet(score(blank))):
        assert scored["score"].to_numpy() == pytest.approx(scorer.score(to_matrix(blank)), abs=1e-6)
        assert scored["chlorides"].isna().all()


def test_other_columns_and_cells_of_a_csv_stay_letter_by_letter(score, features):
    ids = ["007", " x ", "NA", 'say "so"', "a;b", "two\nlines"]
    content = as_csv(features.assign(id=ids), sep=";")
    header, *rows = csv.reader(io.StringIO(score(content).read_text(), newline=""), delimiter=";")
    assert header == [*FEATURES, "id", *ADDED]
    given = list(csv.reader(io.StringIO(content, newline=""), delimiter=";"))
    assert [row[: -len(ADDED)] for row in rows] == given[1:]


def test_other_columns_of_parquet_keep_their_kind(score, features):
    table = pa.Table.from_pandas(features).append_column("tags", pa.array([["a"], [], None, ["b", "c"], [], []]))
    table = table.append_column("kind", pa.array([*"aabbcc"]).dictionary_encode())
    assert pq.read_table(score(table)).select(table.column_names).equals(table)


def test_a_column_that_is_called_like_an_added_one_is_kept_as_given(score, wines):
    for scored in (pd.read_csv(score(as_csv(wines))), pd.read_parquet(score(wines))):
        assert scored["given_quality"].tolist() == wines["quality"].tolist()
        assert "quality" in scored


def test_a_file_that_was_scored_twice_before_has_no_column_twice(score, features):
    again = features.assign(score=1.0, given_score=2.0)
    scored = pd.read_parquet(score(again))
    assert scored[["given_given_score", "given_score"]].iloc[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("spell", "read"), [(as_csv, pd.read_csv), (lambda wines: wines, pd.read_parquet)])
def test_many_chunks_give_what_one_gives(score, features, spell, read, monkeypatch):
    content = spell(pd.concat([features] * 5, ignore_index=True).assign(id=range(30)))
    whole = read(score(content))
    monkeypatch.setattr(table_files, "CHUNK", 7)
    pd.testing.assert_frame_equal(read(score(content)), whole)


def test_bad_rows_of_all_chunks_are_reported_and_only_the_first_ten_in_full(reasons, features, monkeypatch):
    monkeypatch.setattr(table_files, "CHUNK", 4)
    many = pd.concat([features] * 3, ignore_index=True)
    assert reasons(as_csv(many.assign(pH=[3.0] * 5 + [99.0] + [3.0] * 12))) == (
        "1 problem: row 7, pH: 99.0 is not 2 to 5 pH. Fix the file and run again."
    )
    message = reasons(many.assign(pH=99.0))
    assert message.startswith("18 problems: row 1, pH: 99.0 is not 2 to 5 pH; row 2, pH: ")
    assert message.endswith("row 10, pH: 99.0 is not 2 to 5 pH; and 8 more. Fix the file and run again.")


@pytest.mark.parametrize(
    ("column", "cell", "problem"), [("pH", "sour", "'sour' is not a number"), ("type", None, "empty")]
)
def test_a_bad_cell_is_reported_with_its_row(reasons, features, column, cell, problem):
    table = features.astype({column: object})
    table.loc[2, column] = cell
    for content, row in ((as_csv(table), 4), (table.astype({column: "str"}), 3)):
        assert reasons(content) == f"1 problem: row {row}, {column}: {problem}. Fix the file and run again."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda wines: wines.drop(columns=["type", "pH"]), "1 problem: row 1, columns missing: type, pH"),
        (lambda wines: wines.assign(ph=3.0), "1 problem: row 1, columns repeated: pH"),
        (lambda wines: wines[[]].assign(name="Merlot", year=2009), "row 1, columns missing: type, fixed_acidity, "),
    ],
    ids=["missing", "repeated", "none of them"],
)
def test_wrong_columns_are_reported(reasons, features, change, problem):
    for content in (as_csv(change(features)), change(features)):
        assert problem in reasons(content)


HEADER = ",".join(FEATURES)
REFUSED = {
    "empty CSV": ("", "the file is empty"),
    "header alone": (HEADER, "it has no rows"),
    "prose": ("a wine; a red one\nof the South; 2009\n", "columns missing: type, "),
    "few cells": (f"{HEADER}\nred,7\n", "1 problem: row 2, cells: 2, but the header has 12"),
    "huge field": (f"{HEADER}\n{'x' * 200_000},7\n", "row 2: not a readable CSV (field larger than field limit"),
    "endless line": (f"{HEADER}\n{'7,' * 1_000_000}\n", "a line of a million characters or more"),
    "empty Parquet": (b"", "not a readable Parquet file"),
    "hardly Parquet": (b"PAR1 no more than this PAR1", "not a readable Parquet file"),
    "CSV called Parquet": (b"type;pH\nred;3\n", "not a readable Parquet file"),
    "no rows": (pd.DataFrame(columns=FEATURES, dtype=float), "it has no rows"),
}


@pytest.mark.parametrize(("content", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_table_of_wine_is_refused(reasons, content, problem):
    assert problem in reasons(content)


def test_a_torn_parquet_file_is_refused(reasons, features, tmp_path):
    whole = write_file(tmp_path, pd.concat([features] * 500)).read_bytes()
    middle = len(whole) // 3
    for torn in (whole[: len(whole) // 2], whole[:middle] + b"\xff" * 200 + whole[middle + 200 :]):
        assert "not a readable Parquet file" in reasons(torn)


@pytest.mark.parametrize("column", ["pH", "type"])
def test_a_parquet_column_of_lists_is_reported(reasons, features, column):
    table = pa.Table.from_pandas(features)
    table = table.set_column(table.column_names.index(column), column, pa.array([[1.0]] * len(features)))
    assert f"6 problems: row 1, {column}: 'list<element: double>' is not " in reasons(table)
