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


@pytest.mark.parametrize(
    "spelling",
    {
        "tidy": GOOD,
        "semicolons": GOOD.replace(",", ";"),
        "spaces in names": GOOD.replace("_", " "),
        "capital letters": GOOD.upper().replace("E-", "e-"),
        "an unnamed index": f",{HEADER}\n0,{RED}\n1,{WHITE}\n",
        "a named index": f"{HEADER},Unnamed: 0\n{RED},0\n{WHITE},1\n",
        "tabs": GOOD.replace(",", "\t"),
        "Excel's line before the header": f"sep=;\n{GOOD.replace(',', ';')}",
        "that line in quotes, with commas": f'"SEP=,"\r\n{GOOD}',
        "dots in names, as R writes them": f"{HEADER.replace('_', '.')}\n{RED}\n{WHITE}\n",
        "hyphens in names": GOOD.replace("_", "-"),
        "decimal commas": GOOD.replace(",", ";").replace(".", ","),
        "decimal commas and tabs": GOOD.replace(",", "\t").replace(".", ","),
        "decimal commas in quotes": re.sub(r"\d+\.\d+", lambda cell: f'"{cell[0].replace(".", ",")}"', GOOD),
        "color": GOOD.replace("type", "color", 1),
        "colour": GOOD.replace("type", "Colour", 1),
        **{
            f"an index called {name or 'nothing'}": f"{name},{HEADER}\n1,{RED}\n2,{WHITE}\n"
            for name in ("", "Id", "ID", "X", "X.1", "Unnamed: 0.1", "...1", "index", "__index_level_0__")
        },
        "rows of separators alone": f"{GOOD}{',' * 12}\n , ,\n,\n",
        "quotes": re.sub(r"[^,\n]+", r'"\g<0>"', GOOD),
        "spaces around cells": GOOD.replace(",", " , "),
        "lines as on Windows": GOOD.replace("\n", "\r\n"),
        "lines as on an old Macintosh": GOOD.replace("\n", "\r"),
        "a byte order mark": f"\ufeff{GOOD}",
        "no last line break": GOOD.strip(),
    }.items(),
    ids=lambda spelling: spelling[0],
)
def test_every_spelling_reads_as_the_same_table(path, wines, spelling):
    path.write_bytes(spelling[1].encode())
    expected = wines.iloc[[0, 3]].set_axis([2, 3])
    with_excel = spelling[1].lower().lstrip('"').startswith("sep=")
    assert_frame_equal(read_table(path), expected.set_axis([3, 4]) if with_excel else expected)


def test_a_packed_file_reads_as_the_same_table(tmp_path, wines):
    path = tmp_path / "wine.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert_frame_equal(read_table(path), wines.iloc[[0, 3]].set_axis([2, 3]))


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-20], lambda packed: b"red" + packed, lambda _: b""])
def test_a_packed_file_that_is_not_whole_is_refused(tmp_path, spoil):
    path = tmp_path / "wine.csv.gz"
    path.write_bytes(spoil(gzip.compress(GOOD.encode())))
    with pytest.raises(DataError, match=r"wine\.csv\.gz: (not a whole gzip file|the file is empty)\. Get it again\.$"):
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


def test_a_bad_parquet_file_is_told_with_its_row_and_column(tmp_path, wines):
    path = tmp_path / "wine.parquet"
    wines.assign(pH=[3, 3, 3, 3, 31, 3.0]).to_parquet(path)
    with pytest.raises(DataError, match=r"1 problem: row 5, pH: 31\.0 is not 2 to 5 pH"):
        read_table(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(path)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_table(path)


def test_commas_beside_decimal_points_may_mean_thousands_and_are_refused(path):
    table = f"{HEADER}\n{RED}\n{WHITE}\n".replace(",", ";").replace("0.9968", "0,9968")
    assert refusal(path, table) == ("1 problem: row 2, density: '0,9968' is not a number. Mend the file and run again.")


def test_type_and_color_together_are_refused_by_name(path):
    table = f"{HEADER},color\n{RED},red\n{WHITE},white\n"
    assert "row 1, columns repeated: type ('type', 'color')" in refusal(path, table)


@pytest.mark.parametrize(
    ("old", "new"), [("type", "is_red"), ("red,", "1,"), ("red,", "0,"), (",5\n", ",good\n"), ("type", "style")]
)
def test_what_would_be_a_guess_is_refused(path, old, new):
    assert "problem" in refusal(path, GOOD.replace(old, new))


def test_a_merge_conflict_is_told_with_its_row(path):
    conflict = f"{HEADER}\n{RED}\n<<<<<<< HEAD\n{WHITE}\n=======\n{RED}\n>>>>>>> theirs\n"
    told = "a merge conflict of git. Resolve it and run again."
    assert refusal(path, conflict) == f"row 3: {told}"
    assert refusal(path, conflict.partition("\n")[2].partition("\n")[2]) == f"row 1: {told}"


def test_a_git_lfs_pointer_is_told(path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    assert refusal(path, pointer) == "a Git LFS pointer, not the file itself. Get the file: git lfs pull."


def test_a_file_of_one_colour_needs_no_type(path, wines, write_uci):
    write_uci(path.parent, wines)
    read = read_table(path.parent / "winequality-red.csv", "red")
    assert_frame_equal(read.reset_index(drop=True), wines.iloc[:3])


@pytest.mark.parametrize(
    "null", ["", " ", "NA", "NaN", "nan", "null", "NULL", "None", "N/A", "n/a", "#N/A", "<NA>", r"\N"]
)
def test_a_measurement_may_be_missing_in_any_spelling(path, null):
    path.write_text(GOOD.replace("3.45", null))
    assert read_table(path)["pH"].isna().tolist() == [True, False]


def test_the_index_of_the_table_is_the_line_in_the_file(path):
    path.write_text(f"\n{HEADER}\n\n{RED}\n{WHITE}\n\n{RED}\n")
    assert read_table(path).index.tolist() == [4, 5, 7]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param("", "the file is empty. Get it again.", id="empty"),
        pytest.param("\ufeff \n\n", "the file is empty. Get it again.", id="blank"),
        pytest.param(HEADER, "a header and no wines. Get the file again.", id="header only"),
        pytest.param(f"{HEADER}\n\n\n", "a header and no wines. Get the file again.", id="header and blank lines"),
        pytest.param(
            "\n<!DOCTYPE html><html><body>404, not found</body></html>",
            "a web page, not a CSV file. The download went wrong: get it again.",
            id="HTML",
        ),
        pytest.param(GOOD.replace(",", "|"), "columns stand apart by a bar. Save the file with ';' or ','.", id="bars"),
        pytest.param(
            GOOD.replace(",", " "),
            "row 1 has no separator. The file must be a CSV with ';' or ',' between columns.",
            id="spaces",
        ),
        pytest.param(
            b"PK\x03\x04\x00\xff", "not a text file. Give the CSV itself, unpacked and saved as UTF-8.", id="binary"
        ),
        pytest.param(
            GOOD.encode("utf-16"),
            "not a text file. Give the CSV itself, unpacked and saved as UTF-8.",
            id="text of another encoding",
        ),
        pytest.param(
            GOOD.replace("9.75", "9\x0075"),
            "not a text file. Give the CSV itself, unpacked and saved as UTF-8.",
            id="a null character",
        ),
        pytest.param(
            f'{HEADER}\n{RED}\n"{WHITE}\n',
            "row 3: not a readable CSV (unexpected end of data). Mend it and run again.",
            id="an open quote",
        ),
    ],
)
def test_a_file_that_is_no_table_of_wine_is_refused(path, content, line):
    assert refusal(path, content) == line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(
            GOOD.replace(",pH", "").replace(",3.45", "").replace(",3.24", ""),
            "row 1, columns missing: pH",
            id="missing column",
        ),
        pytest.param(
            f"{HEADER},ph\n{RED},3\n{WHITE},3\n",
            "row 1, columns repeated: pH ('pH', 'ph')",
            id="column repeated in another case",
        ),
        pytest.param(
            f"{HEADER},type\n{RED},red\n{WHITE},red\n",
            "row 1, columns repeated: type ('type', 'type')",
            id="repeated type",
        ),
        pytest.param(
            f"{HEADER},vintage\n{RED},2009\n{WHITE},2009\n", "row 1, columns unknown: 'vintage'", id="unknown column"
        ),
        pytest.param(GOOD.replace("3.24", "sour"), "row 3, pH: 'sour' is not a number", id="text for a number"),
        pytest.param(f"{GOOD}{WHITE},8\n", "row 4, cells: 14, but the header has 13", id="a cell too many"),
        pytest.param(GOOD.replace("3.24", "32.4"), "row 3, pH: 32.4 is not 2 to 5 pH", id="out of range"),
        pytest.param(GOOD.replace("3.24", "inf"), "row 3, pH: inf is not 2 to 5 pH", id="inf"),
        pytest.param(GOOD.replace("3.24", "1e400"), "row 3, pH: inf is not 2 to 5 pH", id="too big for a float"),
        pytest.param(f"{GOOD}{WHITE[:-1]}\n", "row 4, quality: empty", id="null quality"),
        pytest.param(f"{GOOD}{WHITE}.5\n", "row 4, quality: 7.5 is not a whole number", id="fractional quality"),
        pytest.param(f"{GOOD}rosé{RED[3:]}\n", "row 4, type: 'rosé' is not red or white", id="unknown type"),
        pytest.param(f"{GOOD}{RED[3:]}\n", "row 4, type: empty", id="no type"),
        pytest.param(
            f"{HEADER}\n{RED}\n", "row 1, type: no wine is white, and the model needs both types", id="only red"
        ),
        pytest.param(
            f"{HEADER}\n{WHITE}\n", "row 1, type: no wine is red, and the model needs both types", id="only white"
        ),
    ],
)
def test_a_bad_table_is_told_with_its_row_and_column(path, content, problem):
    assert refusal(path, content) == f"1 problem: {problem}. Mend the file and run again."


def test_a_type_that_is_empty_throughout_is_told(path):
    assert refusal(path, f"{HEADER}\n{RED[3:]}\n") == (
        "2 problems: row 1, type: no wine is red or white, and the model needs both types; row 2, type: empty. "
        "Mend the file and run again."
    )


def test_a_wine_of_another_type_than_its_file_is_told(path):
    assert refusal(path, GOOD, "white") == (
        "1 problem: row 2, type: 'red' in a file of white wine. Mend the file and run again."
    )


def test_a_file_of_both_that_does_not_say_the_type_is_told(path):
    without_type = f"{HEADER}\n{RED}\n".replace("type,", "").replace("red,", "")
    assert refusal(path, without_type) == "1 problem: row 1, columns missing: type. Mend the file and run again."


def test_all_problems_of_a_file_are_told_at_once(path):
    table = f"{HEADER},vintage\n{RED},2009\n{WHITE}\n{WHITE},2009\n".replace("sulphates", "salt")
    table += f"{RED},2009\n".replace("3.45", "sour").replace("9.75", "97.5")
    assert refusal(path, table) == (
        "5 problems: row 1, columns missing: sulphates; row 1, columns unknown: 'salt', 'vintage'; "
        "row 3, cells: 13, but the header has 14; row 5, alcohol: 97.5 is not 5 to 25 % by volume; "
        "row 5, pH: 'sour' is not a number. Mend the file and run again."
    )


def test_no_such_file_is_told(path):
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: no such file. Check the name, or set WINE_DATA to another source."


def test_a_file_without_read_permission_is_told(open_folder, without_rights):
    path = open_folder / "wine.csv"
    path.write_text(GOOD)
    read_table(path)
    with without_rights():
        read_table(path)
    path.chmod(0)
    with without_rights(), pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: you may not read it. Give yourself read permission (chmod u+r)."


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_no_file(path, make):
    make(path)
    with pytest.raises(DataError, match=rf"^{path}: a folder or a device, not a file\. Give the CSV file itself\.$"):
        read_table(path)


@pytest.mark.parametrize("name", ["x" * 300, "nul\0l"])
def test_a_name_that_no_file_can_have_is_told(tmp_path, name):
    with pytest.raises(DataError, match=r"cannot be read \(.*\)\. Give another file\.$"):
        read_table(tmp_path / name)
