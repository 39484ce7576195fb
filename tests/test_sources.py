import gzip
import shutil
from pathlib import Path

import pandas as pd
import pooch
import pytest
from pandas.testing import assert_frame_equal

from wine_quality import download, sources
from wine_quality.config import Settings, settings
from wine_quality.errors import DataError, DownloadError
from wine_quality.schema import MEASUREMENTS
from wine_quality.sources import KAGGLE_BLANKS, KAGGLE_PAIRS, blank_cells, kaggle_pair, load_dataset, load_pair
from wine_quality.splits import leaked_fraction


@pytest.fixture
def cellar(wines) -> pd.DataFrame:
    """Ten times the six wines, so that as many cells can be blanked as in the real file."""
    return pd.concat([wines] * 10, ignore_index=True)


@pytest.fixture
def made_sample(tmp_path, wines, write_uci, monkeypatch) -> Path:
    """A sample of three wines in place of the committed one."""
    monkeypatch.setattr(sources, "SAMPLE", write_uci(tmp_path / "sample", wines.iloc[1:4]))
    return sources.SAMPLE


def kept_download(config: Settings, write_uci, wines: pd.DataFrame, monkeypatch) -> Path:
    """Write wines where a download is kept, and take their sums for the published ones."""
    folder = write_uci(config.raw_data / "uci", wines)
    sums = {path.name: pooch.file_hash(str(path)) for path in folder.iterdir()}
    monkeypatch.setattr(download, "UCI_SHA256", sums)
    return folder


def write_kaggle(folder: Path, names: tuple[str, str], pair: tuple[pd.DataFrame, pd.DataFrame], raw: bool) -> Path:
    """Write a Kaggle pair tidy, or raw: an index column in the first, spaces in the names of both."""
    folder.mkdir(exist_ok=True)
    for name, table in zip(names, pair, strict=True):
        if raw:
            table = table.rename(columns=lambda column: column.replace("_", " "))
        table.to_csv(folder / name, index=raw and name == names[0])
    return folder


def refusal(config: Settings) -> str:
    """Return the one line with which a source is refused."""
    with pytest.raises(DataError) as caught:
        load_dataset(config)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_uci_pair_of_a_folder_is_read_with_its_types(tmp_path, wines, write_uci):
    folder = write_uci(tmp_path / "mine", wines)
    wine = load_dataset(settings(data=str(folder)))
    assert_frame_equal(wine.table, wines)
    assert (wine.source, wine.why, wine.pair) == ("folder", f"the files in {folder}", None)


def test_file_names_may_be_in_any_case_and_the_folder_in_your_home(tmp_path, wines, write_uci, monkeypatch):
    folder = write_uci(tmp_path / "mine", wines)
    (folder / "winequality-red.csv").rename(folder / "WineQuality-RED.CSV")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_frame_equal(load_dataset(settings(data="~/mine")).table, wines)


@pytest.mark.parametrize("names", KAGGLE_PAIRS)
@pytest.mark.parametrize("raw", [True, False])
def test_a_kaggle_pair_is_read_in_its_raw_and_its_tidy_spelling(tmp_path, cellar, names, raw):
    pair = kaggle_pair(cellar, seed=1)
    wine = load_dataset(settings(data=str(write_kaggle(tmp_path / "mine", names, pair, raw))))
    for read, written in zip(wine.pair, pair, strict=True):
        assert_frame_equal(read.reset_index(drop=True), written)
    assert_frame_equal(wine.table, pd.concat(pair, ignore_index=True))


def test_in_a_folder_with_both_pairs_uci_is_the_wine_and_kaggle_serves_the_notebooks(tmp_path, cellar, write_uci):
    folder, pair = write_uci(tmp_path / "mine", cellar), kaggle_pair(cellar, seed=1)
    write_kaggle(folder, KAGGLE_PAIRS[1], pair, raw=False)
    config = settings(data=str(folder))
    assert len(load_dataset(config).table) == len(cellar)
    assert load_dataset(config).pair is None
    train, validation, why = load_pair(config)
    assert (len(train), len(validation), blank_cells(validation)) == (300, 60, 38)
    assert why == "the real Kaggle pair"


def test_without_a_kaggle_pair_one_is_built_and_that_is_said(tmp_path, cellar, write_uci):
    config = settings(data=str(write_uci(tmp_path / "mine", cellar)))
    train, validation, why = load_pair(config)
    wine = load_dataset(config).table
    assert_frame_equal(train, kaggle_pair(wine, config.seed)[0])
    assert_frame_equal(validation, kaggle_pair(wine, config.seed)[1])
    assert why.startswith("a pair built as Kaggle's was, from the files in ")


def test_the_built_pair_has_five_copies_and_the_blanks_of_the_real_one(cellar):
    train, validation = kaggle_pair(cellar, seed=1)
    assert len(train) == 5 * len(cellar)
    assert leaked_fraction(cellar, train) == 1
    blanks = validation.isna().sum()
    assert blanks[blanks > 0].to_dict() == KAGGLE_BLANKS
    assert blank_cells(validation) == 38
    assert_frame_equal(validation.fillna(cellar), cellar)


def test_the_seed_makes_the_built_pair(cellar):
    first, again, other = (kaggle_pair(cellar, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert a.equals(b)
        assert not a.equals(c)


def test_auto_takes_a_kept_download_and_says_so(wines, write_uci, monkeypatch):
    config = settings()
    kept_download(config, write_uci, wines, monkeypatch)
    wine = load_dataset(config)
    assert_frame_equal(wine.table, wines)
    assert wine.source == "uci"
    assert wine.why == "UCI Wine Quality, checksums verified (auto: from an earlier download)"


def test_auto_downloads_where_nothing_is_kept_and_says_so(tmp_path, wines, write_uci, monkeypatch):
    monkeypatch.setattr(download, "uci", lambda _config: write_uci(tmp_path / "uci", wines))
    wine = load_dataset(settings())
    assert_frame_equal(wine.table, wines)
    assert wine.why == "UCI Wine Quality, checksums verified (auto: downloaded just now)"


def test_auto_takes_the_sample_where_uci_cannot_be_had_and_says_why(made_sample, monkeypatch):
    monkeypatch.setattr(download, "uci", away)
    wine = load_dataset(settings())
    assert (wine.source, len(wine.table)) == ("sample", 3)
    assert wine.why == "the sample, which is synthetic, not real wine (auto: no earlier download, and UCI is away)"


@pytest.mark.parametrize("name", ["uci", "kaggle"])
def test_a_source_asked_for_by_name_is_not_replaced_by_the_sample(made_sample, monkeypatch, name):
    monkeypatch.setattr(download, name, away)
    with pytest.raises(DownloadError, match=r"^UCI is away\. Try later, or set WINE_DATA=sample\.$"):
        load_dataset(settings(data=name))


def away(_config: Settings) -> Path:
    raise DownloadError("UCI is away")


def test_uci_and_kaggle_are_read_from_where_they_were_downloaded(tmp_path, cellar, write_uci, monkeypatch):
    config = settings(data="uci")
    kept_download(config, write_uci, cellar, monkeypatch)
    assert (load_dataset(config).source, len(load_dataset(config).table)) == ("uci", 60)
    write_kaggle(config.raw_data / "kaggle", KAGGLE_PAIRS[0], kaggle_pair(cellar, 1), raw=True)
    wine = load_dataset(settings(data="kaggle"))
    assert (wine.source, [len(table) for table in wine.pair]) == ("kaggle", [300, 60])
    assert load_pair(settings(data="kaggle"))[2] == "the real Kaggle pair"


def test_the_sample_is_taken_where_asked_for(made_sample):
    wine = load_dataset(settings(data="sample"))
    assert (wine.source, len(wine.table)) == ("sample", 3)
    assert wine.why == "the sample, which is synthetic, not real wine (requested by WINE_DATA=sample)"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("/no/such/folder", id="no folder"),
        pytest.param("uci2", id="no source"),
        pytest.param("x" * 300, id="too long for a name"),
        pytest.param("nul\0l", id="a null character"),
        pytest.param("~nobody-at-all/wine", id="the home of no one"),
    ],
)
def test_a_source_that_is_none_is_told(name):
    shown = name.replace("\0", " ")
    assert refusal(settings(data=name)) == (
        f"WINE_DATA={shown}: no file or folder that you may open, and not one of auto, uci, kaggle, sample. Mend it."
    )


def test_a_folder_without_wine_is_told(tmp_path):
    assert refusal(settings(data=str(tmp_path))) == (
        f"{tmp_path}: no wine here. Put in it winequality-red.csv with winequality-white.csv or WineQuality.csv with "
        "winequalityN.csv or train_wine_data.csv with test_wine_data.csv or a table of your own."
    )


@pytest.mark.parametrize("colours", [["red"], ["white"], ["red", "white"]])
def test_a_table_of_ones_own_may_hold_one_colour_or_two(tmp_path, wines, colours):
    table = wines[wines["type"].isin(colours)]
    table.to_csv(tmp_path / "wines.csv", index=False)
    wine = load_dataset(settings(data=str(tmp_path)))
    assert wine.source == "folder"
    assert_frame_equal(wine.table.reset_index(drop=True), table.reset_index(drop=True))


@pytest.mark.parametrize("name", ["winequalityN.csv", "Mine.CSV", "mine.tsv", "mine.csv.gz", "mine.parquet"])
def test_a_single_table_of_any_name_is_read_and_may_be_named_as_a_file(tmp_path, wines, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("not wine")
    (folder / "scores.csv").write_text("id,score\n1,5.5\n")
    if name.endswith("parquet"):
        wines.to_parquet(folder / name)
    else:
        wines.to_csv(folder / name, index=False)
    for data_setting in (folder, folder / name):
        wine = load_dataset(settings(data=str(data_setting)))
        assert (wine.source, wine.why, wine.pair) == ("folder", f"the file {folder / name}", None)
        assert_frame_equal(wine.table.reset_index(drop=True), wines)
    assert load_pair(settings(data=str(folder / name)))[2].startswith("a pair built as Kaggle's was, from the file ")


def test_two_tables_in_a_folder_are_refused_by_name(tmp_path, wines):
    for name in ("one.csv", "two.csv"):
        wines.to_csv(tmp_path / name, index=False)
    assert refusal(settings(data=str(tmp_path))) == (
        f"{tmp_path}: more than one table of wine: one.csv and two.csv. Name one of them: WINE_DATA={tmp_path}/one.csv."
    )


def test_a_single_file_that_lacks_a_column_is_told_with_it(tmp_path, wines):
    wines.drop(columns="pH").to_csv(tmp_path / "mine.csv", index=False)
    assert refusal(settings(data=str(tmp_path))) == (
        f"{tmp_path}/mine.csv: 1 problem: row 1, columns missing: pH. Mend the file and run again."
    )


def test_the_uci_pair_may_be_packed(tmp_path, wines, write_uci):
    folder = write_uci(tmp_path / "mine", wines)
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert_frame_equal(load_dataset(settings(data=str(folder))).table, wines)


def test_a_pair_goes_before_a_table_of_ones_own(tmp_path, wines, write_uci):
    write_uci(tmp_path / "mine", wines)
    wines.head(1).to_csv(tmp_path / "mine" / "wines.csv", index=False)
    assert len(load_dataset(settings(data=str(tmp_path / "mine"))).table) == len(wines)


@pytest.mark.parametrize("colour", ["red", "white"])
def test_a_folder_of_one_colour_is_told(tmp_path, wines, write_uci, colour):
    name = f"winequality-{colour}.csv"
    (write_uci(tmp_path / "mine", wines) / name).unlink()
    assert refusal(settings(data=str(tmp_path / "mine"))) == (
        f"{tmp_path}/mine: {name} is missing, and the model needs both colours. Put it there."
    )


def test_a_bad_file_of_a_folder_is_told_with_its_name_row_and_column(tmp_path, wines, write_uci):
    folder = write_uci(tmp_path / "mine", wines.assign(pH=[3, 3, 3, 3, 31, 3.0]))
    assert refusal(settings(data=str(folder))) == (
        f"{folder}/winequality-white.csv: 1 problem: row 3, pH: 31.0 is not 2 to 5 pH. Mend the file and run again."
    )


@pytest.mark.parametrize("mode", [0o000, 0o111])
def test_a_folder_without_read_permission_is_told(open_folder, wines, write_uci, without_rights, mode):
    folder = write_uci(open_folder / "mine", wines)
    config = settings(data=str(folder))
    load_dataset(config)
    with without_rights():
        load_dataset(config)
    folder.chmod(mode)
    with without_rights():
        line = refusal(config)
    folder.chmod(0o755)
    assert line == f"{folder}: you may not open it. Give yourself permission (chmod u+rx)."


def test_the_sum_of_a_table_is_that_of_its_values(wines):
    assert sources.table_checksum(wines) == sources.table_checksum(wines.set_axis(range(10, 16)))
    assert sources.table_checksum(wines) != sources.table_checksum(wines.iloc[::-1])
    assert sources.table_checksum(wines) != sources.table_checksum(wines.assign(quality=5))


def copied(real_folder: Path, names: tuple[str, str], folder: Path) -> sources.Dataset:
    """Copy two of the real files into a folder and load them from there."""
    for name in names:
        shutil.copy(real_folder / name, folder)
    return load_dataset(settings(data=str(folder)))


def test_the_real_uci_pair_is_what_was_published(tmp_path, real_folder):
    wine = copied(real_folder, sources.UCI_PAIR, tmp_path)
    assert download.damaged(tmp_path) == []
    assert wine.table["type"].value_counts().to_dict() == {"white": 4898, "red": 1599}
    assert blank_cells(wine.table) == 0


def test_the_built_pair_is_blank_where_the_real_kaggle_pair_is(tmp_path, real_folder):
    train, validation = copied(real_folder, KAGGLE_PAIRS[1], tmp_path).pair
    assert (len(train), len(validation)) == (32485, 6497)
    assert blank_cells(train) == 0
    blanks = validation[list(MEASUREMENTS)].isna().sum()
    assert blanks[blanks > 0].to_dict() == KAGGLE_BLANKS
