"""A person's approval of a promotion, on a real Prefect server: resumed, cancelled, or never answered."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling
from servers import running, wait_for_run, wait_until

from orchestration import approval
from orchestration.train import train_wine_quality
from wine_quality import registry, sources, splits, tracking
from wine_quality.config import Settings, settings
from wine_quality.errors import RegistryError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_for_commands")]


@pytest.fixture(autouse=True)
def config(few_wines, tmp_path, monkeypatch) -> Settings:
    """The settings of an empty home in which promotions need approval."""
    monkeypatch.setenv("WINE_HOME", str(tmp_path))
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    monkeypatch.setenv("WINE_APPROVAL", "manual")
    return settings()


@pytest.fixture
def client(tmp_path) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server that a process serving the flow reports to."""
    log, api = (
        tmp_path / "serve.log",
        {"PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_RUNNER_POLL_FREQUENCY": "1"},
    )
    with running(["-m", "orchestration.serve"], log, **api) as server, get_client(sync_client=True) as client:
        wait_until(lambda: server.poll() is not None or "being served" in log.read_text(), "serve")
        assert server.poll() is None, log.read_text()
        yield client


def paused_run(client: SyncPrefectClient) -> FlowRun:
    """Start a run, and return it once it waits for approval."""
    served = client.read_deployment_by_name("train-wine-quality/one-file")
    run = client.create_flow_run_from_deployment(served.id, parameters={"max_evals": 1})

    def is_paused() -> bool:
        state = client.read_flow_run(run.id).state
        assert not state.is_final(), state
        return state.is_paused()

    wait_until(is_paused, "the pause")
    return client.read_flow_run(run.id)


def the_version(config: Settings):
    """Return the alias champion's version, if any, and the only version there is."""
    with tracking.store(config) as store:
        (version,) = store.client.search_model_versions(f"name = '{config.registered_model}'")
        return registry.champion(store), store.client.get_model_version(version.name, version.version)


def test_resuming_the_run_promotes_the_version_and_records_the_reason(client, config):
    run = paused_run(client)
    champion, version = the_version(config)
    assert champion is None
    assert version.tags["approval"] == str(run.id)
    assert "**Passed, waits for approval**" in version.description
    assert list(config.outbox.iterdir()) == [], "it is pushed before a person decides"
    form = client.read_flow_run_input(run.id, run.state.state_details.run_input_keyset["description"])
    assert "# wine-quality, version 1" in str(form)
    resume_flow_run(run.id, run_input={"reason": "the slices look right"})
    assert wait_for_run(client, run).state.is_completed()
    champion, version = the_version(config)
    assert (str(champion.version), version.tags["approval"]) == ("1", "approved")
    assert "approved: the slices look right." in version.description


def test_cancelling_the_run_rejects_the_version(client, config):
    run = paused_run(client)
    client.set_flow_run_state(run.id, Cancelling())
    assert wait_for_run(client, run).state.is_cancelled()
    wait_until(lambda: "was cancelled." in the_version(config)[1].description, "the rejection")
    champion, version = the_version(config)
    assert champion is None
    assert version.tags["approval"] == "rejected"
    assert "rejected: the run that requested approval was cancelled." in version.description
    assert registry.INPUTS in version.tags, "a person decided, so the same model isn't proposed again"


def test_a_run_that_nobody_answers_rejects_its_version_and_fails(config, monkeypatch):
    monkeypatch.setenv("WINE_APPROVAL_SECONDS", "4")
    with pytest.raises(RegistryError, match="version 1 was not approved within 4 seconds, so it stays a challenger"):
        train_wine_quality(max_evals=1)
    champion, version = the_version(config)
    assert (champion, version.tags["approval"]) == (None, "rejected")
    assert "rejected: nobody approved it within 4 seconds." in version.description
    with pytest.raises(RegistryError, match="version 2 was not approved within 4 seconds"):
        train_wine_quality(max_evals=1)  # nobody decided, so it's proposed again


def test_an_approval_that_comes_after_another_promotion_is_refused(config):
    with mock.patch.dict(os.environ, WINE_APPROVAL="automatic"):
        train_wine_quality(max_evals=1)
        train_wine_quality(max_evals=1, seed=7)
    gate_set = splits.train_gate_split(splits.distinct_rows(sources.load_dataset(config).table))[1]
    with tracking.store(config) as store:
        assert int(registry.champion(store).version) == 1
        registry.await_approval(store, "2", "a run")
        assert registry.awaiting(store, "a run") == ["2"]
        with pytest.raises(
            RegistryError, match=r"^version 2 was compared with no champion, and another one has become"
        ):
            approval.promote_if_unchanged("2", gate_set, None, "")
        assert registry.awaiting(store, "a run") == []
        assert store.client.get_model_version(store.model_name, "2").tags["approval"] == "rejected"
        registry.promote_approved(store, "1", None, "")  # a second try, after the first one was stopped halfway


def test_an_approval_that_is_neither_automatic_nor_manual_is_refused(monkeypatch):
    monkeypatch.setenv("WINE_APPROVAL", "perhaps")
    with pytest.raises(Exception, match="WINE_APPROVAL='perhaps'"):
        settings()
