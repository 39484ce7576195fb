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

BUILT = "a pair built like Kaggle's, from the file"


@pytest.fixture
def many_wines(wines) -> pd.DataFrame:
    """Ten copies of the six rows, enough to blank as many cells as in the real file."""
    return pd.concat([wines] * 10, ignore_index=True)


@pytest.fixture
def short_sample(tmp_path, wines, write_uci, monkeypatch) -> None:
    """Three rows in place of the committed sample."""
    monkeypatch.setattr(sources, "SAMPLE", write_uci(tmp_path / "sample", wines.iloc[1:4]))


@pytest.fixture
def mine(tmp_path, wines, write_uci) -> Path:
    return write_uci(tmp_path / "mine", wines)


def load(data: object) -> sources.Dataset:
    return load_dataset(settings(data=str(data)))


def refusal(data: object) -> str:
    with pytest.raises(DataError) as caught:
        load(data)
    assert str(caught.value).isprintable()
    return str(caught.value)


def store_download(write_uci, wines: pd.DataFrame, monkeypatch) -> None:
    """Store rows as an earlier download, with their checksums in place of the published ones."""
    folder = write_uci(settings().raw_data / "uci", wines)
    monkeypatch.setattr(download, "UCI_SHA256", {path.name: pooch.file_hash(str(path)) for path in folder.iterdir()})


def write_kaggle(folder: Path, names: tuple[str, str], pair: tuple[pd.DataFrame, pd.DataFrame], raw: bool) -> Path:
    """Write a Kaggle pair, tidy or raw: with an index column in the first file and spaces in column names."""
    folder.mkdir(exist_ok=True)
    for name, table in zip(names, pair, strict=True):
        if raw:
            table = table.rename(columns=lambda column: column.replace("_", " "))
        table.to_csv(folder / name, index=raw and name == names[0])
    return folder


def test_the_uci_pair_of_a_folder_is_read_with_its_types(mine, wines):
    dataset = load(mine)
    assert_frame_equal(dataset.table, wines)
    assert (dataset.source, dataset.why, dataset.pair) == ("folder", f"the files in {mine}", None)


def test_files_may_be_compressed_and_named_in_any_case_and_the_folder_given_as_tilde(mine, wines, monkeypatch):
    (mine / "winequality-red.csv").rename(mine / "WineQuality-RED.CSV")
    monkeypatch.setenv("HOME", str(mine.parent))
    assert_frame_equal(load("~/mine").table, wines)
    for path in list(mine.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert_frame_equal(load(mine).table, wines)


@pytest.mark.parametrize("names", KAGGLE_PAIRS)
@pytest.mark.parametrize("raw", [True, False])
def test_a_kaggle_pair_is_read_raw_and_tidy(tmp_path, many_wines, names, raw):
    pair = kaggle_pair(many_wines, seed=1)
    dataset = load(write_kaggle(tmp_path / "mine", names, pair, raw))
    for read, written in zip(dataset.pair, pair, strict=True):
        assert_frame_equal(read.reset_index(drop=True), written)
    assert_frame_equal(dataset.table, pd.concat(pair, ignore_index=True))


def test_in_a_folder_with_both_pairs_uci_is_the_dataset_and_kaggle_is_used_in_the_notebooks(
    tmp_path, many_wines, write_uci
):
    folder = write_uci(tmp_path / "both", many_wines)
    write_kaggle(folder, KAGGLE_PAIRS[1], kaggle_pair(many_wines, seed=1), raw=False)
    assert (len(load(folder).table), load(folder).pair) == (len(many_wines), None)
    train, validation, why = load_pair(settings(data=str(folder)))
    assert (len(train), len(validation), blank_cells(validation)) == (300, 60, 38)
    assert why == "the real Kaggle pair"


def test_without_a_kaggle_pair_one_is_built_and_the_line_says_so(tmp_path, many_wines, write_uci):
    config = settings(data=str(write_uci(tmp_path / "uci", many_wines)))
    *pair, why = load_pair(config)
    for found, built in zip(pair, kaggle_pair(load_dataset(config).table, config.seed), strict=True):
        assert_frame_equal(found, built)
    assert why.startswith(f"{BUILT}s in ")


def test_the_built_pair_has_five_draws_per_row_and_as_many_blanks_as_the_real_one(many_wines):
    train, validation = kaggle_pair(many_wines, seed=1)
    assert len(train) == 5 * len(many_wines)
    assert leaked_fraction(many_wines, train) == 1
    blanks = validation.isna().sum()
    assert blanks[blanks > 0].to_dict() == KAGGLE_BLANKS
    assert blank_cells(validation) == 38
    assert_frame_equal(validation.fillna(many_wines), many_wines)


def test_the_seed_determines_the_built_pair(many_wines):
    for first, again, other in zip(*(kaggle_pair(many_wines, seed) for seed in (1, 1, 2)), strict=True):
        assert first.equals(again)
        assert not first.equals(other)


def test_auto_uses_an_earlier_download_or_makes_one_and_says_which(tmp_path, wines, write_uci, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download, "uci", lambda _config: write_uci(tmp_path / "uci", wines))
        downloaded = load_dataset(settings())
    store_download(write_uci, wines, monkeypatch)
    cached = load_dataset(settings())
    for dataset, how in ((downloaded, "downloaded just now"), (cached, "from an earlier download")):
        assert_frame_equal(dataset.table, wines)
        assert (dataset.source, dataset.why) == ("uci", f"UCI Wine Quality, checksums verified (auto: {how})")


@pytest.mark.parametrize(
    ("data", "how"),
    [("auto", "auto: no earlier download, and UCI is down"), ("sample", "requested by WINE_DATA=sample")],
)
def test_the_sample_is_used_on_request_or_if_uci_is_unavailable(short_sample, monkeypatch, data, how):
    monkeypatch.setattr(download, "uci", is_down)
    dataset = load(data)
    assert (dataset.source, len(dataset.table)) == ("sample", 3)
    assert dataset.why == f"the sample, which is synthetic, not real data ({how})"


@pytest.mark.parametrize("name", ["uci", "kaggle"])
def test_a_source_requested_by_name_is_not_replaced_by_the_sample(short_sample, monkeypatch, name):
    monkeypatch.setattr(download, name, is_down)
    with pytest.raises(DownloadError, match=r"^UCI is down\. Try later, or set WINE_DATA=sample\.$"):
        load(name)


def is_down(_config: Settings) -> Path:
    raise DownloadError("UCI is down")


def test_uci_and_kaggle_are_read_from_earlier_downloads(many_wines, write_uci, monkeypatch):
    store_download(write_uci, many_wines, monkeypatch)
    assert (load("uci").source, len(load("uci").table)) == ("uci", 60)
    write_kaggle(settings().raw_data / "kaggle", KAGGLE_PAIRS[0], kaggle_pair(many_wines, 1), raw=True)
    dataset = load("kaggle")
    assert (dataset.source, [len(table) for table in dataset.pair]) == ("kaggle", [300, 60])
    assert load_pair(settings(data="kaggle"))[2] == "the real Kaggle pair"


@pytest.mark.parametrize("name", ["/no/such/folder", "uci2", "x" * 300, "nul\0l", "~nobody-at-all/wine"])
def test_an_unknown_source_raises_an_error(name):
    shown = name.replace("\0", " ")
    assert refusal(name) == (
        f"WINE_DATA={shown}: no file or folder that you may open, and not one of auto, uci, kaggle, sample. Fix it."
    )


def test_a_folder_without_a_dataset_raises_an_error(tmp_path):
    assert refusal(tmp_path) == (
        f"{tmp_path}: no dataset here. Put into it: winequality-red.csv and winequality-white.csv; or WineQuality.csv "
        "and winequalityN.csv; or train_wine_data.csv and test_wine_data.csv; or one table of your own."
    )


def test_uci_files_are_recognised_in_any_folder_and_modified_ones_are_not(tmp_path, real_folder):
    for name in download.UCI_SHA256:
        shutil.copy(real_folder / name, tmp_path)
    assert load(tmp_path).source == "uci"
    red = tmp_path / "winequality-red.csv"
    red.write_text(red.read_text().rstrip().rpartition("\n")[0])
    assert load(tmp_path).source == "folder"


@pytest.mark.parametrize("colour", ["red", "white"])
def test_your_own_table_may_have_one_colour_but_a_uci_pair_needs_both(mine, tmp_path, wines, colour):
    table = wines[wines["type"] == colour]
    table.to_csv(tmp_path / "wines.csv", index=False)
    dataset = load(tmp_path)
    assert dataset.source == "folder"
    assert_frame_equal(dataset.table.reset_index(drop=True), table.reset_index(drop=True))
    (mine / f"winequality-{colour}.csv").unlink()
    assert refusal(mine) == (
        f"{mine}: winequality-{colour}.csv is missing, and the model needs both colours. Put it into the folder."
    )


@pytest.mark.parametrize("name", ["winequalityN.csv", "Mine.CSV", "mine.tsv", "mine.csv.gz", "mine.parquet"])
def test_a_single_table_of_any_name_is_read_from_its_folder_or_by_its_path(tmp_path, wines, name):
    (tmp_path / "README.md").write_text("not a dataset")
    (tmp_path / "scores.csv").write_text("id,score\n1,5.5\n")
    file = tmp_path / name
    if name.endswith("parquet"):
        wines.to_parquet(file)
    else:
        wines.to_csv(file, index=False)
    for data in (tmp_path, file):
        dataset = load(data)
        assert (dataset.source, dataset.why, dataset.pair) == ("folder", f"the file {file}", None)
        assert_frame_equal(dataset.table.reset_index(drop=True), wines)
    assert load_pair(settings(data=str(file)))[2].startswith(f"{BUILT} ")


def test_two_tables_in_a_folder_are_rejected_and_named(tmp_path, wines):
    for name in ("one.csv", "two.csv"):
        wines.to_csv(tmp_path / name, index=False)
    assert refusal(tmp_path) == (
        f"{tmp_path}: more than one table: one.csv and two.csv. Name one of them: WINE_DATA={tmp_path}/one.csv."
    )


def test_a_pair_takes_precedence_over_your_own_table(mine, wines):
    wines.head(1).to_csv(mine / "wines.csv", index=False)
    assert len(load(mine).table) == len(wines)


def test_an_invalid_file_is_reported_with_its_name_row_and_column(tmp_path, wines, write_uci):
    folder = write_uci(tmp_path / "uci", wines.assign(pH=[3, 3, 3, 3, 31, 3.0]))
    problem = "row 3, pH: 31.0 is not 2 to 5 pH"
    assert refusal(folder) == f"{folder}/winequality-white.csv: 1 problem: {problem}. Fix the file and run again."
    wines.drop(columns="pH").to_csv(tmp_path / "mine.csv", index=False)
    problem = "row 1, columns missing: pH"
    assert refusal(tmp_path) == f"{tmp_path}/mine.csv: 1 problem: {problem}. Fix the file and run again."


@pytest.mark.parametrize("mode", [0o000, 0o111])
def test_a_folder_without_read_permission_raises_an_error(open_folder, wines, write_uci, without_rights, mode):
    folder = write_uci(open_folder / "mine", wines)
    config = settings(data=str(folder))
    load_dataset(config)
    with without_rights():
        load_dataset(config)
    folder.chmod(mode)
    with without_rights(), pytest.raises(DataError) as caught:
        load_dataset(config)
    folder.chmod(0o755)
    assert str(caught.value) == f"{folder}: you may not open it. Give yourself permission (chmod u+rx)."


def test_the_checksum_of_a_table_depends_only_on_its_values(wines):
    assert sources.table_checksum(wines) == sources.table_checksum(wines.set_axis(range(10, 16)))
    for other in (wines.iloc[::-1], wines.assign(quality=5)):
        assert sources.table_checksum(wines) != sources.table_checksum(other)


def copied(real_folder: Path, names: tuple[str, str], folder: Path) -> sources.Dataset:
    for name in names:
        shutil.copy(real_folder / name, folder)
    return load(folder)


def test_the_real_uci_pair_is_the_published_one(tmp_path, real_folder):
    table = copied(real_folder, sources.UCI_PAIR, tmp_path).table
    assert download.damaged(tmp_path) == []
    assert table["type"].value_counts().to_dict() == {"white": 4898, "red": 1599}
    assert blank_cells(table) == 0


def test_the_built_pair_has_as_many_blanks_per_column_as_the_real_kaggle_pair(tmp_path, real_folder):
    train, validation = copied(real_folder, KAGGLE_PAIRS[1], tmp_path).pair
    assert (len(train), len(validation), blank_cells(train)) == (32485, 6497, 0)
    blanks = validation[list(MEASUREMENTS)].isna().sum()
    assert blanks[blanks > 0].to_dict() == KAGGLE_BLANKS
