"""Which bucket is used, why, and how that is reported; with a real Prefect API and real S3 servers."""

from collections.abc import Iterator
from threading import Thread

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from orchestration.bucket import BLOCK, bucket_at, bucket_line, bucket_of_environment, laptop, wine_bucket
from wine_quality import storage
from wine_quality.config import settings
from wine_quality.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_api")]

ACCOUNTS = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN"]


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_alone_does_not_send_anything_to_amazon(account, monkeypatch, tmp_path):
    folder = tmp_path / ".local" / "s3" / "wine-quality"
    assert bucket_line(settings()) == f"on this laptop, in the folder `{folder}`: no other bucket is set"
    assert not folder.parent.exists(), "nothing is made by saying so"
    monkeypatch.setenv(account, "of-other-work")
    assert bucket_of_environment(settings()) is None, "nor does make deploy save a block for it"
    why = f"{account} alone names no bucket; set WINE_BUCKET to use it"
    assert bucket_line(settings()) == f"on this laptop, in the folder `{folder}`: {why}"
    with wine_bucket(settings()) as (bucket, where):
        assert bucket.credentials.aws_client_parameters.endpoint_url.startswith("http://127.0.0.1:")
        assert where == f"On this laptop, in the folder `{folder}`"


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("name", ["wine-quality", "team-wine"])
def test_amazon_is_used_if_the_bucket_is_named_as_well(account, name, monkeypatch):
    monkeypatch.setenv(account, "ours")
    monkeypatch.setenv("WINE_BUCKET", name)
    assert bucket_of_environment(settings()).credentials.aws_client_parameters.endpoint_url is None
    assert bucket_line(settings()) == f"in the bucket `{name}` at Amazon S3: set by WINE_BUCKET and {account}"


def test_an_endpoint_names_the_server_and_the_local_one_is_recognised_at_any_port(rclone, set_aws):
    assert bucket_line(settings()).startswith("on this laptop, ")
    set_aws("http://127.0.0.1:9")
    assert bucket_line(settings()) == "in the bucket `wine-quality` at http://127.0.0.1:9: set by AWS_ENDPOINT_URL_S3"


def test_a_block_wins_and_the_settings_that_it_overrides_are_named(set_aws, monkeypatch):
    block = bucket_at(laptop(settings()), settings())
    block.credentials.save("wine-credentials")
    block.save(BLOCK)
    try:
        assert bucket_line(settings()).endswith("/.local/s3/wine-quality`: set by the block wine-bucket")
        set_aws(laptop(settings()).url)
        monkeypatch.setenv("WINE_BUCKET", "wine-quality")
        assert "ignored" not in bucket_line(settings()), "they say the same"
        set_aws("http://127.0.0.1:9")
        assert bucket_line(settings()).endswith("block wine-bucket; AWS_ENDPOINT_URL_S3 ignored")
        monkeypatch.setenv("WINE_BUCKET", "team-wine")
        assert bucket_line(settings()).endswith("block wine-bucket; WINE_BUCKET and AWS_ENDPOINT_URL_S3 ignored")
    finally:
        block.delete(BLOCK)
        block.credentials.delete("wine-credentials")


CHECKSUM_HEADERS = ("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", "HTTP_X_AMZ_TRAILER", "HTTP_X_AMZ_CHECKSUM_CRC32")


@pytest.fixture
def strict(set_aws) -> Iterator[list[str]]:
    """An S3 server that refuses checksum headers, as some that are not Amazon's do; yields what it refused."""
    moto, refused = DomainDispatcherApplication(create_backend_app), []

    def app(environ, start_response):
        if headers := [name for name in CHECKSUM_HEADERS if name in environ]:
            refused.extend(headers)
            start_response("501 Not Implemented", [("Content-Length", "0")])
            return [b""]
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    set_aws(f"http://127.0.0.1:{server.server_port}")
    yield refused
    server.shutdown()
    thread.join()


def test_a_server_that_refuses_checksum_headers_takes_and_gives_and_deletes_a_run(strict, monkeypatch, tmp_path):
    monkeypatch.setenv("WINE_BUCKET", f"strict-{free_port()}")
    config = settings()
    boto3.client("s3").create_bucket(Bucket=config.bucket)
    storage.add_to_outbox(config.outbox, "run1", {"report.md": b"good"})
    with wine_bucket(config) as (bucket, _):
        storage.push_waiting(bucket, config.outbox)
        assert [path.read_bytes() for path in storage.pull(bucket, "run1", tmp_path / "back")] == [b"good"]
        storage.delete(bucket, "run1")
        assert storage.runs(bucket) == {}
    assert strict == []
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")  # boto3's own default
    with pytest.raises(Exception, match="501"):
        boto3.client("s3").put_object(Bucket=config.bucket, Key="a", Body=b"b")
    assert strict, "the server does refuse what boto3 sends unasked"
