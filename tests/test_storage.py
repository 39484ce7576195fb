import json
import socket
import stat
import subprocess
import time

import boto3
import pytest

from orchestration.bucket import bucket_of_environment
from wine_quality import storage
from wine_quality.config import settings
from wine_quality.errors import DataError, StorageError, StorageUnavailable
from wine_quality.local_s3 import free_port, local_keys, local_s3


@pytest.fixture(params=["moto_bucket", "rclone"])
def bucket(request, config):
    request.getfixturevalue(request.param)
    return bucket_of_environment(config)


def push_one(run_id: str = "run1") -> list[str]:
    config = settings()
    storage.add_to_outbox(config.outbox, run_id, {"report.md": b"good", "wines.csv": b"a;b"})
    return storage.push_waiting(bucket_of_environment(config), config.outbox)


def in_outbox(run_id: str = "run1") -> bool:
    return (settings().outbox / run_id / "manifest.json").exists()


def test_what_is_pushed_can_be_pulled_and_is_checked(bucket, tmp_path):
    assert push_one() == ["run1"]
    pulled = storage.pull(bucket, "run1", tmp_path / "back")
    assert {path.name: path.read_bytes() for path in pulled} == {"report.md": b"good", "wines.csv": b"a;b"}
    assert list(settings().outbox.iterdir()) == []


def test_an_object_that_was_changed_or_is_missing_is_named(bucket, tmp_path):
    push_one()
    client = boto3.Session().client("s3")
    wines = {"Bucket": "wine-quality", "Key": "runs/run1/wines.csv"}
    client.put_object(**wines, Body=b"a;c")
    with pytest.raises(StorageError, match=r"runs/run1/wines.csv: not the file"):
        storage.pull(bucket, "run1", tmp_path / "back")
    assert not (tmp_path / "back" / "wines.csv").exists()
    for key in (wines["Key"], "runs/run1/manifest.json"):
        client.delete_object(Bucket="wine-quality", Key=key)
        with pytest.raises(StorageError, match=f"bucket wine-quality: {key} is not there"):
            storage.pull(bucket, "run1", tmp_path / "back")


def test_a_run_is_deleted_its_manifest_first_and_others_stay(bucket, monkeypatch):
    push_one("run1")
    push_one("run10")
    deleted, client = [], type(bucket.credentials.get_s3_client())
    with monkeypatch.context() as patch:
        patch.setattr(client, "delete_object", lambda _self, **options: deleted.append(options["Key"]))
        storage.delete(bucket, "run1")
    assert deleted == ["runs/run1/manifest.json", "runs/run1/report.md", "runs/run1/wines.csv"]
    for _ in range(2):
        storage.delete(bucket, "run1")
        assert set(storage.runs(bucket)) == {"run10"}


def test_the_manifest_is_written_last(bucket, config, monkeypatch):
    sent = []
    storage.add_to_outbox(config.outbox, "run1", {"z": b"1", "a": b"2"})
    monkeypatch.setattr(type(bucket), "upload_from_path", lambda _self, _path, key: sent.append(key))
    storage.push_waiting(bucket, config.outbox)
    assert sent == ["runs/run1/a", "runs/run1/z", "runs/run1/manifest.json"]


def test_a_missing_bucket_is_named_and_what_waited_is_pushed_with_the_next_run(bucket, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setenv("WINE_BUCKET", "no-such-wine")
        with pytest.raises(StorageError, match="bucket no-such-wine: there is no such bucket"):
            push_one("run1")
    assert in_outbox("run1")
    time.sleep(0.01)
    assert push_one("run2") == ["run1", "run2"]


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_reported(rclone, monkeypatch, name):
    monkeypatch.setenv(name, "wrong-but-long-enough")
    with pytest.raises(StorageError, match="bucket wine-quality: the keys are refused") as caught:
        push_one()
    assert "wrong-but-long-enough" not in str(caught.value)
    assert in_outbox()


def test_nobody_listening_is_reported_as_transient(set_aws):
    set_aws(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match=r"connection refused.*AWS_ENDPOINT_URL_S3"):
        push_one()


def test_a_silent_endpoint_is_reported(set_aws):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        set_aws(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match="the endpoint does not answer"):
            push_one()


def test_a_disk_that_is_full_stages_nothing(tmp_path, monkeypatch, full_disk):
    def full(*_):
        raise full_disk

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        storage.add_to_outbox(tmp_path / "outbox", "run1", {"report.md": b"good"})
    assert not (tmp_path / "outbox" / "run1").exists()


def test_a_staged_run_has_the_sums_of_its_files(tmp_path):
    names = storage.add_to_outbox(tmp_path, "run1", {"report.md": b"good"})
    manifest = json.loads((tmp_path / "run1" / "manifest.json").read_text())
    assert names == ["report.md", "manifest.json"]
    assert manifest["files"] == {"report.md": "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"}


def test_the_local_server_keeps_its_keys_to_itself_and_stops_with_the_block():
    config = settings()
    with local_s3(config) as endpoint:
        processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert stat.S_IMODE((config.local / "s3-keys").stat().st_mode) == 0o600
    assert endpoint.access_key not in processes
    assert endpoint.secret_key not in repr(endpoint)
    assert local_keys(config) == (endpoint.access_key, endpoint.secret_key)
    port = int(endpoint.url.rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


def test_a_server_that_does_not_start_is_reported_with_its_last_words(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("wine_quality.local_s3.free_port", lambda: taken.getsockname()[1])
        monkeypatch.setattr("socket.socket.connect_ex", lambda *_: 1)
        with pytest.raises(StorageUnavailable, match=r"did not start: .*address already in use"), local_s3(settings()):
            pass


def test_a_spoilt_key_file_is_reported():
    path = settings().local / "s3-keys"
    path.parent.mkdir(parents=True)
    path.write_text("nonsense")
    with pytest.raises(DataError, match=rf"{path}: holds no keys"):
        local_keys(settings())
    assert path.exists()


def test_a_run_that_was_killed_while_its_pushed_folder_was_deleted_blocks_nothing(rclone, monkeypatch):
    bucket = bucket_of_environment(settings())
    outbox = settings().outbox
    storage.add_to_outbox(outbox, "run1", {"report.md": b"good"})

    def stopped(folder):
        (folder / storage.MANIFEST).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage.shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            storage.push_waiting(bucket, outbox)
    assert storage.push_waiting(bucket, outbox) == []
    assert list(outbox.iterdir()) == []
    assert set(storage.runs(bucket)["run1"]) == {"report.md", storage.MANIFEST}


def test_other_objects_and_a_damaged_manifest_do_not_stop_the_list_of_runs(rclone, tmp_path):
    bucket = bucket_of_environment(settings())
    for key, content in (
        ("runs/.DS_Store", b"x"),
        ("runs/run1/manifest.json", b"{"),
        ("runs/run2/manifest.json", b"[]"),
    ):
        bucket.write_path(key, content)
    assert list(storage.runs(bucket)) == ["run1", "run2"]
    for name in ("run1", "run2"):
        with pytest.raises(StorageError, match=rf"^runs/{name}/manifest\.json: not the file that was pushed"):
            storage.pull(bucket, name, tmp_path / name)
