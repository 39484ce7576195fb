import gzip
import os
import re
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from wine_quality.errors import DataError
from wine_quality.schema import COLUMNS
from wine_quality.tables import read_table

HEADER = ",".join(COLUMNS)
RED = "red,7.25,0.655,0.05,1.95,0.0815,12,36,0.9968,3.45,0.58,9.75,5"
WHITE = "white,6.15,0.245,0.31,1.45,0.0425,28,110,0.9906,3.24,0.44,12.3,7"
GOOD = f"{HEADER}\n{RED}\n{WHITE}\n"
SEMICOLONS = GOOD.replace(",", ";")
INDEX_NAMES = ("", "Id", "ID", "X", "X.1", "Unnamed: 0.1", "...1", "index", "__index_level_0__")
SPELLINGS = {
    "tidy": GOOD,
    "semicolons": SEMICOLONS,
    "spaces in names": GOOD.replace("_", " "),
    "capital letters": GOOD.upper().replace("E-", "e-"),
    "a named index": f"{HEADER},Unnamed: 0\n{RED},0\n{WHITE},1\n",
    "tabs": GOOD.replace(",", "\t"),
    "Excel's line before the header": f"sep=;\n{SEMICOLONS}",
    "that line in quotes, with commas": f'"SEP=,"\r\n{GOOD}',
    "dots in names, as R writes them": f"{HEADER.replace('_', '.')}\n{RED}\n{WHITE}\n",
    "hyphens in names": GOOD.replace("_", "-"),
    "decimal commas": SEMICOLONS.replace(".", ","),
    "decimal commas and tabs": GOOD.replace(",", "\t").replace(".", ","),
    "decimal commas in quotes": re.sub(r"\d+\.\d+", lambda cell: f'"{cell[0].replace(".", ",")}"', GOOD),
    "color": GOOD.replace("type", "color", 1),
    "colour": GOOD.replace("type", "Colour", 1),
    **{f"an index called {name or 'nothing'}": f"{name},{HEADER}\n1,{RED}\n2,{WHITE}\n" for name in INDEX_NAMES},
    "rows of separators alone": f"{GOOD}{',' * 12}\n , ,\n,\n",
    "quotes": re.sub(r"[^,\n]+", r'"\g<0>"', GOOD),
    "spaces around cells": GOOD.replace(",", " , "),
    "lines as on Windows": GOOD.replace("\n", "\r\n"),
    "lines as on an old Macintosh": GOOD.replace("\n", "\r"),
    "a byte order mark": f"\ufeff{GOOD}",
    "no last line break": GOOD.strip(),
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "wine.csv"


def refusal(path: Path, content: str | bytes, wine_type: str | None = None) -> str:
    """Return what is said of a file with this content, after its name."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_table(path, wine_type)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("content", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_reads_as_the_same_table(path, wines, content):
    path.write_bytes(content.encode())
    first = 3 if content.lower().lstrip('"').startswith("sep=") else 2
    assert_frame_equal(read_table(path), wines.iloc[[0, 3]].set_axis([first, first + 1]))


def test_a_packed_file_reads_as_the_same_table_and_is_refused_if_it_is_not_whole(tmp_path, wines):
    path, packed = tmp_path / "wine.csv.gz", gzip.compress(GOOD.encode())
    path.write_bytes(packed)
    assert_frame_equal(read_table(path), wines.iloc[[0, 3]].set_axis([2, 3]))
    for content, what in (
        (packed[:-20], "not a whole gzip file"),
        (b"red" + packed, "not a whole gzip file"),
        (b"", "the file is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"wine\.csv\.gz: {what}.*\. Get it again\.$"):
            read_table(path)


@pytest.mark.parametrize(
    "spell",
    [
        lambda wines: wines,
        lambda wines: wines.set_axis([9, 4, 7, 1, 3, 2]),
        lambda wines: wines.astype(str),
        lambda wines: wines.rename(columns={"type": "color", "fixed_acidity": "fixed.acidity"}),
        lambda wines: wines.astype({"type": "category"}).assign(type=wines["type"].str.upper()),
    ],
    ids=["tidy", "with an index", "text", "other names", "a category in capitals"],
)
def test_a_parquet_file_reads_as_the_same_table(tmp_path, wines, spell):
    spell(wines).to_parquet(tmp_path / "wine.parquet")
    assert_frame_equal(read_table(tmp_path / "wine.parquet"), wines.set_axis(range(1, 7)))


def test_a_bad_parquet_file_is_reported_with_its_row_and_column(tmp_path, wines):
    path = tmp_path / "wine.parquet"
    wines.assign(pH=[3, 3, 3, 3, 31, 3.0]).to_parquet(path)
    with pytest.raises(DataError, match=r"1 problem: row 5, pH: 31\.0 is not 2 to 5 pH"):
        read_table(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(path)


@pytest.mark.parametrize(
    ("old", "new"), [("type", "is_red"), ("red,", "1,"), ("red,", "0,"), (",5\n", ",good\n"), ("type", "style")]
)
def test_what_would_be_a_guess_is_refused(path, old, new):
    assert "problem" in refusal(path, GOOD.replace(old, new))


def test_a_file_of_one_colour_needs_no_type_but_no_other_one_either(path, wines, write_uci):
    write_uci(path.parent, wines)
    read = read_table(path.parent / "winequality-red.csv", "red")
    assert_frame_equal(read.reset_index(drop=True), wines.iloc[:3])
    fix = "Fix the file and run again."
    assert refusal(path, GOOD, "white") == f"1 problem: row 2, type: 'red' in a file of white wine. {fix}"


@pytest.mark.parametrize(
    "null", ["", " ", "NA", "NaN", "nan", "null", "NULL", "None", "N/A", "n/a", "#N/A", "<NA>", r"\N"]
)
def test_a_measurement_may_be_missing_in_any_spelling(path, null):
    path.write_text(GOOD.replace("3.45", null))
    assert read_table(path)["pH"].isna().tolist() == [True, False]


def test_the_index_of_the_table_is_the_line_in_the_file(path):
    path.write_text(f"\n{HEADER}\n\n{RED}\n{WHITE}\n\n{RED}\n")
    assert read_table(path).index.tolist() == [4, 5, 7]


NO_TEXT = "not a text file. Give the CSV itself, unpacked and saved as UTF-8."
NO_ROWS = "a header but no rows. Get the file again."
CONFLICT = "a Git merge conflict. Resolve it and run again."
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
HTML = "\n<!DOCTYPE html><html><body>404, not found</body></html>"
SPACES = "row 1 has no separator. The file must be a CSV with ';' or ',' between columns."
NO_TABLES = {
    "empty": ("", "the file is empty. Get it again."),
    "blank": ("\ufeff \n\n", "the file is empty. Get it again."),
    "header only": (HEADER, NO_ROWS),
    "header and blank lines": (f"{HEADER}\n\n\n", NO_ROWS),
    "HTML": (HTML, "a web page, not a CSV file. Download it again."),
    "bars": (GOOD.replace(",", "|"), "columns are separated by a bar. Save the file with ';' or ','."),
    "spaces": (GOOD.replace(",", " "), SPACES),
    "binary": (b"PK\x03\x04\x00\xff", NO_TEXT),
    "text of another encoding": (GOOD.encode("utf-16"), NO_TEXT),
    "a null character": (GOOD.replace("9.75", "9\x0075"), NO_TEXT),
    "an open quote": (
        f'{HEADER}\n{RED}\n"{WHITE}\n',
        "row 3: not a readable CSV (unexpected end of data). Fix it and run again.",
    ),
    "a merge conflict": (f"{HEADER}\n{RED}\n<<<<<<< HEAD\n{WHITE}\n=======\n", f"row 3: {CONFLICT}"),
    "a conflict from the start": (f"<<<<<<< HEAD\n{WHITE}\n=======\n{RED}\n>>>>>>> a\n", f"row 1: {CONFLICT}"),
    "Git LFS": (POINTER, "a Git LFS pointer, not the file itself. Get the file: git lfs pull."),
}


@pytest.mark.parametrize(("content", "line"), NO_TABLES.values(), ids=NO_TABLES)
def test_a_file_that_is_no_table_of_wine_is_refused(path, content, line):
    assert refusal(path, content) == line


NO_PH = GOOD.replace(",pH", "").replace(",3.45", "").replace(",3.24", "")
NO_TYPE = f"{HEADER}\n{RED}\n".replace("type,", "").replace("red,", "")
BAD_TABLES = {
    "missing column": (NO_PH, "row 1, columns missing: pH"),
    "no column of types": (NO_TYPE, "row 1, columns missing: type"),
    "repeated in another case": (f"{HEADER},ph\n{RED},3\n{WHITE},3\n", "row 1, columns repeated: pH ('pH', 'ph')"),
    "repeated": (f"{HEADER},type\n{RED},red\n{WHITE},red\n", "row 1, columns repeated: type ('type', 'type')"),
    "type and color": (
        f"{HEADER},color\n{RED},red\n{WHITE},white\n",
        "row 1, columns repeated: type ('type', 'color')",
    ),
    "unknown column": (f"{HEADER},vintage\n{RED},2009\n{WHITE},2009\n", "row 1, columns unknown: 'vintage'"),
    "text for a number": (GOOD.replace("3.24", "sour"), "row 3, pH: 'sour' is not a number"),
    "perhaps thousands": (SEMICOLONS.replace("0.9968", "0,9968"), "row 2, density: '0,9968' is not a number"),
    "a cell too many": (f"{GOOD}{WHITE},8\n", "row 4, cells: 14, but the header has 13"),
    "too big for a float": (GOOD.replace("3.24", "1e400"), "row 3, pH: inf is not 2 to 5 pH"),
    "null quality": (f"{GOOD}{WHITE[:-1]}\n", "row 4, quality: empty"),
    "unknown type": (f"{GOOD}rosé{RED[3:]}\n", "row 4, type: 'rosé' is not red or white"),
    "no type": (f"{GOOD}{RED[3:]}\n", "row 4, type: empty"),
    "only red": (f"{HEADER}\n{RED}\n", "row 1, type: no wine is white, and the model needs both types"),
    "only white": (f"{HEADER}\n{WHITE}\n", "row 1, type: no wine is red, and the model needs both types"),
}


@pytest.mark.parametrize(("content", "problem"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_bad_table_is_reported_with_its_row_and_column(path, content, problem):
    assert refusal(path, content) == f"1 problem: {problem}. Fix the file and run again."


def test_all_problems_of_a_file_are_reported_at_once(path):
    assert refusal(path, f"{HEADER}\n{RED[3:]}\n") == (
        "2 problems: row 1, type: no wine is red or white, and the model needs both types; row 2, type: empty. "
        "Fix the file and run again."
    )
    table = f"{HEADER},vintage\n{RED},2009\n{WHITE}\n{WHITE},2009\n".replace("sulphates", "salt")
    table += f"{RED},2009\n".replace("3.45", "sour").replace("9.75", "97.5")
    assert refusal(path, table) == (
        "5 problems: row 1, columns missing: sulphates; row 1, columns unknown: 'salt', 'vintage'; "
        "row 3, cells: 13, but the header has 14; row 5, alcohol: 97.5 is not 5 to 25 % by volume; "
        "row 5, pH: 'sour' is not a number. Fix the file and run again."
    )


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        ("wine.csv", None, r"no such file\. Check the name, or set WINE_DATA to another source\."),
        ("wine.parquet", None, "no such file.*"),
        ("wine.csv", Path.mkdir, r"a folder or a device, not a file\. Give the CSV file itself\."),
        ("wine.csv", os.mkfifo, r"a folder or a device, not a file\. Give the CSV file itself\."),
        ("x" * 300, None, r"cannot be read \(.*\)\. Give another file\."),
        ("nul\0l", None, r"cannot be read \(.*\)\. Give another file\."),
    ],
)
def test_what_is_no_file_is_reported(tmp_path, name, make, line):
    if make:
        make(tmp_path / name)
    with pytest.raises(DataError, match=rf"^{tmp_path}/.*: {line}$"):
        read_table(tmp_path / name)


def test_a_file_without_read_permission_is_reported(open_folder, without_rights):
    path = open_folder / "wine.csv"
    path.write_text(GOOD)
    read_table(path)
    with without_rights():
        read_table(path)
    path.chmod(0)
    with without_rights(), pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: you may not read it. Give yourself read permission (chmod u+r)."
