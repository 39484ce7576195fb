"""True qualities, kept beside the predictions, on both kinds of database."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from postgres import Postgres, postgres_server
from prediction_writer import made
from servers import wait_until

from wine_quality import labels
from wine_quality.errors import DataError, PredictionsError
from wine_quality.predictions import Prediction, Predictions, read


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/predictions.db"
    return request.getfixturevalue("server").new_database(f"labels-{uuid4()}")


@pytest.fixture
def kept(url: str, tmp_path: Path) -> list[Prediction]:
    """Three predictions that are in the database."""
    predictions, keeper = made(3), Predictions(tmp_path / "spool", url)
    assert keeper.keep(predictions)
    keeper.close()
    wait_until(lambda: len(read(url)) == 3, "predictions in the database")
    return predictions


def test_without_a_label_there_is_nothing_to_read(url):
    assert labels.labelled(url).empty


def test_a_label_joins_its_prediction(url, kept):
    labels.add(url, {kept[0].id: 7, kept[2].id: 4})
    found = labels.labelled(url)
    assert dict(zip(found["id"], found["quality"], strict=True)) == {kept[0].id: 7, kept[2].id: 4}
    assert (found["score"] == 5.5).all()
    assert str(found["quality"].dtype) == "int64"


def test_a_label_that_is_told_again_takes_the_place_of_the_first(url, kept):
    labels.add(url, {kept[0].id: 3})
    labels.add(url, {kept[0].id: 8, kept[1].id: 5})
    found = labels.labelled(url).set_index("id")["quality"]
    assert found.to_dict() == {kept[0].id: 8, kept[1].id: 5}


def test_ids_of_no_prediction_are_named_and_no_label_is_stored(url, kept):
    with pytest.raises(DataError, match=r"^2 of 3 ids have no stored prediction: typo, other\. No label is stored"):
        labels.add(url, {kept[0].id: 7, "typo": 5, "other": 6})
    assert labels.labelled(url).empty
    labels.add(url, {kept[0].id: 7})
    assert len(labels.labelled(url)) == 1


def test_of_many_unknown_ids_the_first_ten_are_named(url):
    with pytest.raises(DataError, match=r"^250 of 250 ids .*: id-0, .*, id-9 and 240 more\. No label"):
        labels.add(url, {f"id-{n}": 5 for n in range(250)})


def test_a_label_is_taken_once_its_prediction_has_arrived(url, tmp_path):
    (early,) = made(1)
    keeper = Predictions(tmp_path / "spool", url)
    with pytest.raises(DataError, match=rf"{early.id}.*may still be on its way there: then add the labels later"):
        labels.add(url, {early.id: 6})
    assert keeper.keep([early])
    keeper.close()
    wait_until(lambda: len(read(url)) == 1, "the prediction")
    labels.add(url, {early.id: 6})
    assert labels.labelled(url)["quality"].tolist() == [6]


@pytest.mark.parametrize("wrong", [11, -1, 5.5, "6", None])
def test_a_quality_that_is_none_is_refused_and_nothing_is_kept(url, kept, wrong):
    with pytest.raises(DataError, match=f"quality of {kept[1].id}: .* is not a whole number from 0 to 10"):
        labels.add(url, {kept[0].id: 7, kept[1].id: wrong})
    assert labels.labelled(url).empty


def test_a_database_that_is_away_is_told_without_its_password(tmp_path):
    away = f"sqlite:///{tmp_path}/missing/predictions.db"
    with pytest.raises(PredictionsError, match=r"cannot be used .* mend WINE_PREDICTIONS"):
        labels.add(away, {"an-id": 5})
    with pytest.raises(PredictionsError, match="cannot be used"):
        labels.labelled(away)
