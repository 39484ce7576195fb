import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from faults import largest_file
from pandas.testing import assert_frame_equal

from scaling import make_rows
from scaling.make_rows import make_part, write_rows
from wine_quality import chunked, parts
from wine_quality.errors import DataError, SettingsError, StorageError, StorageUnavailable
from wine_quality.parts import is_synthetic, list_parts, read_batches
from wine_quality.ports import free_port
from wine_quality.schema import MEASUREMENTS
from wine_quality.sources import sample
from wine_quality.splits import row_keys
from wine_quality.tables import read_table


def rows_of(part: str) -> pd.DataFrame:
    return pd.concat(read_batches(part))


def error_of(part: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_batches(str(part)))
    return str(caught.value)


def test_a_part_is_read_like_a_table_whatever_its_column_names(tmp_path, wines):
    spelt = wines.rename(columns={"fixed_acidity": "Fixed Acidity", "type": "colour"}).astype({"quality": "float32"})
    spelt.assign(colour=spelt["colour"].str.upper()).to_parquet(tmp_path / "part-0.parquet")
    assert_frame_equal(rows_of(str(tmp_path / "part-0.parquet")), read_table(tmp_path / "part-0.parquet"))


def test_numbers_stored_as_text_are_numbers_in_the_checked_pass_too(tmp_path, wines):
    path = tmp_path / "part-0.parquet"
    wines.assign(
        quality=wines["quality"].astype("float").astype("str"), alcohol=wines["alcohol"].astype("str")
    ).to_parquet(path)
    assert_frame_equal(pd.concat(read_batches(str(path), checked=True)), rows_of(str(path)))
    assert_frame_equal(rows_of(str(path)), read_table(path))


def test_parts_are_sorted_by_name_and_other_files_are_ignored(tmp_path, wines):
    for name in ("part-10.parquet", "part-02.parquet", "other.parquet", "part-3.csv"):
        wines.to_parquet(tmp_path / name)
    assert [Path(part).name for part in list_parts(str(tmp_path))] == ["part-02.parquet", "part-10.parquet"]
    with pytest.raises(DataError, match=r"none: contains no part-\*\.parquet. Choose a folder"):
        list_parts(str(tmp_path / "none"))


def test_all_problems_of_a_part_are_reported_in_one_line_with_its_name(tmp_path, wines):
    path = tmp_path / "part-0.parquet"
    many = pd.concat([wines] * 20_000, ignore_index=True)  # more than two batches
    many.loc[[3, 119_999], "pH"] = 9.0
    many.loc[70_000, "type"] = "rose"
    many.to_parquet(path)
    line = error_of(path)
    assert line.startswith(f"{path}: 3 problems: row 4, pH: 9.0 is not 2 to 5 pH; row 70001, type: 'rose' is not red")
    assert "row 120000, pH" in line
    many.assign(alcohol=99.0).to_parquet(path)
    assert "120003 problems" in error_of(path)
    assert "and 119993 more" in error_of(path)
    wines.drop(columns="pH").to_parquet(path)
    assert error_of(path) == f"{path}: 1 problem: row 1, columns missing: pH. Fix the file and run again."
    wines.head(0).to_parquet(path)
    assert "columns but no rows" in error_of(path)
    path.write_bytes(b"PAR1 no")
    assert "not a readable Parquet file" in error_of(path)


@pytest.mark.slow
def test_parts_in_a_bucket_are_read_like_those_in_a_folder(rclone, tmp_path, wines):
    folder = rclone / "wine-quality" / "many"
    (folder / "deeper").mkdir(parents=True)
    for name in ("part-0.parquet", "part-1.parquet", "other.parquet", "deeper/part-2.parquet"):
        wines.to_parquet(folder / name)
    wines.to_parquet(rclone / "wine-quality" / "part-9.parquet")
    parts = list_parts("s3://wine-quality/many")
    assert parts == ["s3://wine-quality/many/part-0.parquet", "s3://wine-quality/many/part-1.parquet"]
    assert_frame_equal(rows_of(parts[1]), read_table(folder / "part-1.parquet"))
    assert list_parts("s3://wine-quality") == list_parts("s3://wine-quality/") == ["s3://wine-quality/part-9.parquet"]
    with pytest.raises(StorageError, match="bucket nowhere: there is no such bucket"):
        list_parts("s3://nowhere/many")


@pytest.mark.slow
def test_a_part_in_a_bucket_is_downloaded_once_to_be_checked_and_named_if_it_is_not_parquet(rclone, wines, monkeypatch):
    folder, downloads, client = rclone / "wine-quality" / "many", [], parts.s3
    folder.mkdir(parents=True)
    wines.to_parquet(folder / "part-0.parquet")
    (folder / "part-1.parquet").write_bytes(b"PAR1 no")
    monkeypatch.setattr(parts, "s3", lambda: downloads.append(1) or client())
    assert chunked.scan("s3://wine-quality/many/part-0.parquet")[0].rows == len(wines)
    assert len(downloads) == 1
    with pytest.raises(DataError, match=r"^s3://wine-quality/many/part-1\.parquet: not a readable Parquet file"):
        chunked.scan("s3://wine-quality/many/part-1.parquet")


def test_a_download_that_breaks_off_each_time_gives_a_one_line_error_and_is_worth_a_retry(set_aws):
    class BreaksOff(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"PAR1")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever).start()
        set_aws(f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(StorageUnavailable, match=r"^bucket b: the download of part-0\.parquet broke off \("):
                chunked.scan("s3://b/part-0.parquet")
        finally:
            server.shutdown()


def test_rows_are_not_generated_into_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_rows", "10", "s3://bucket/rows"])
    with pytest.raises(SettingsError, match=r"ROWS_AT=s3://bucket/rows: give a folder on this machine"):
        make_rows.main()


def test_an_unreachable_bucket_gives_a_one_line_error(set_aws):
    set_aws(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match="bucket wine-quality: connection refused"):
        list_parts("s3://wine-quality/many")


def test_generated_rows_start_with_the_given_ones_and_stay_within_bounds():
    given = sample("a test").table
    made = make_part(given, 20_000, 0, seed=1)
    assert_frame_equal(made.head(len(given)), given.reset_index(drop=True))
    for name, bounds in MEASUREMENTS.items():
        assert made[name].dropna().between(bounds.low, bounds.high).all(), name
    more = made.iloc[len(given) :]
    assert 20 < more.isna().any(axis=1).sum() < 200
    assert 100 < row_keys(more).duplicated().sum() < 200
    digits = made[list(MEASUREMENTS)].map(lambda value: float(f"{value:.8g}"))
    assert np.allclose(digits, made[list(MEASUREMENTS)], rtol=1e-14, atol=0, equal_nan=True)
    assert_frame_equal(make_part(given, 20_000, 0, seed=1), made)
    assert not make_part(given, 9_000, 1, seed=1).equals(make_part(given, 9_000, 2, seed=1))


def test_generated_rows_are_valid_parts_that_are_marked_as_synthetic(tmp_path, wines):
    write_rows(wines, 251_000, tmp_path / "rows", seed=1)
    first, second = list_parts(str(tmp_path / "rows"))
    assert [pq.read_metadata(part).num_rows for part in (first, second)] == [250_000, 1_000]
    assert len(rows_of(second)) == 1_000
    assert is_synthetic(Path(first))
    with pytest.raises(DataError, match=r"rows: already exists"):
        write_rows(wines, 10, tmp_path / "rows", seed=1)


def test_generated_rows_appear_complete_or_not_at_all(tmp_path, wines):
    with (
        largest_file(1000),
        pytest.raises(DataError, match=r"rows: cannot be used \(.*File too large\). Free some"),
    ):
        write_rows(wines, 1000, tmp_path / "rows", seed=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_prints_what_it_generated_or_what_is_wrong(tmp_path):
    def make_rows(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scaling.make_rows", *words]
        environment = os.environ | {"WINE_DATA": "sample"}
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)

    done = make_rows("1000", str(tmp_path / "rows"))
    assert done.stdout.startswith(f"rows      1,000 in {tmp_path / 'rows'}, generated from the sample"), done.stderr
    shutil.rmtree(tmp_path / "rows")
    refused = make_rows("many", str(tmp_path / "rows"))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "ROWS=many: not a number of rows" in refused.stderr
    assert not (tmp_path / "rows").exists()
