"""Pushing a run again, rebuilt from MLflow."""

from functools import partial

import pytest
from mlflow import MlflowClient
from servers import command
from versions import artifacts, model_path, register_model

from wine_quality.files import sha256

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_for_commands")]

push, list_bucket = partial(command, "orchestration.push"), partial(command, "orchestration.list_bucket")


@pytest.fixture
def one(config):
    one = register_model(config, "linear", intervals=True)
    for name in ("rows.csv", "report.md", "model-card.md"):
        MlflowClient().log_text(one.run_id, f"the {name}", name)
    return one


def test_a_run_is_pushed_again_whole_after_a_move_to_another_bucket(config, one):
    for bucket in ("first", "second"):
        done = push(one.run_id, WINE_BUCKET=bucket)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = config.local / "s3" / bucket / "runs" / one.run_id
        files = {"model.skops", "interval.skops", "rows.csv", "report.md", "model-card.md", "manifest.json"}
        assert {path.name for path in folder.iterdir()} == files
        assert sha256(folder / "model.skops") == one.tags["model_sha256"]
        assert (folder / "rows.csv").read_text() == "the rows.csv"
        assert done.stdout.splitlines() == [
            f"bucket    on this laptop, in the folder `{folder.parent.parent}`: no other bucket is set",
            f"push      runs/{one.run_id}",
        ]


def test_a_deleted_or_damaged_object_is_replaced_and_the_list_names_the_run_to_push(config, one):
    push(one.run_id)
    folder = config.local / "s3" / "wine-quality" / "runs" / one.run_id
    for spoil in (lambda: (folder / "manifest.json").unlink(), lambda: (folder / "rows.csv").write_text("else")):
        spoil()
        listed = list_bucket()
        assert listed.returncode == 1
        assert listed.stdout.splitlines()[-1] == f"to push a run again from MLflow: make push RUN={one.run_id}"
        assert push(one.run_id).returncode == 0
        assert list_bucket().returncode == 0


def test_a_run_that_mlflow_lacks_or_has_only_in_part_is_rejected_in_one_line(config, one):
    for unknown in ("f" * 32, "../x"):
        line = f"error: MLflow has no run {unknown}. Copy its id from MLflow, or run make bucket.\n"
        assert push(unknown).stderr == line
    (artifacts(one) / "rows.csv").unlink()
    line = f"error: run {one.run_id}: MLflow does not have its rows.csv. Train again: make run.\n"
    assert push(one.run_id).stderr == line
    MlflowClient().log_text(one.run_id, "a;b", "rows.csv")
    model_path(one).unlink()
    done = push(one.run_id)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "model.skops" in done.stderr
    assert not (config.outbox / one.run_id).exists()


def test_without_a_run_the_line_says_how_to_name_one():
    assert push().stderr == "error: which run? Give its id, as in: make push RUN=0123456789abcdef\n"
