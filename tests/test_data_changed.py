"""When new data starts a run: unless a version that was published whole was trained on the same distinct rows."""

import pytest
from versions import register_model

from orchestration import data_changed
from wine_quality import registry, sources
from wine_quality.config import settings
from wine_quality.splits import distinct_rows


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
def test_a_version_whose_run_was_killed_before_its_end_does_not_count(config, store, few_wines, monkeypatch, capsys):
    events: list[dict] = []
    monkeypatch.setattr(data_changed, "emit_event", lambda *_, payload: events.append(payload))
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    checksum = sources.table_checksum(distinct_rows(sources.load_dataset(settings()).table))
    one = register_model(config, "mean")
    store.client.set_model_version_tag(one.name, str(one.version), registry.DISTINCT_ROWS, checksum)
    data_changed.main()
    assert [event["sha256"] for event in events] == [checksum]
    registry.tag_inputs(store, str(one.version), "a checksum")
    data_changed.main()
    assert len(events) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("unchanged ")
