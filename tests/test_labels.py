"""Labels, stored beside the predictions, on both kinds of database."""

from datetime import timedelta

import numpy as np
import orjson
import pytest
from prediction_writer import new_predictions
from servers import wait_until

from wine_quality import labels
from wine_quality.errors import DataError, PredictionsError
from wine_quality.predictions import Database, Prediction, PredictionStore, count


def insert(url: str, predictions: list[Prediction]) -> None:
    Database(url).insert([orjson.dumps(prediction) for prediction in predictions])


@pytest.fixture
def ids(database_url: str) -> list[str]:
    """The ids of three predictions in the database."""
    predictions = new_predictions(3)
    insert(database_url, predictions)
    return [prediction.id for prediction in predictions]


def by_id(url: str) -> dict[str, int]:
    return labels.labelled_predictions(url).set_index("id")["quality"].to_dict()


def test_a_label_joins_its_prediction_and_a_correction_replaces_it(database_url, ids):
    assert labels.labelled_predictions(database_url).empty
    labels.add(database_url, {ids[0]: 7, ids[2]: 4})
    assert by_id(database_url) == {ids[0]: 7, ids[2]: 4}
    table = labels.labelled_predictions(database_url)
    assert (table["score"] == 5.5).all()
    assert str(table["quality"].dtype) == "int64"
    labels.add(database_url, {ids[0]: 8, ids[1]: 5})
    assert by_id(database_url) == {ids[0]: 8, ids[1]: 5, ids[2]: 4}


def test_the_order_is_by_time_and_features_and_not_by_the_random_ids(database_url):
    assert labels.labelled_predictions(database_url).empty
    first, *others = new_predictions(4)
    alcohol = [first.features | {"alcohol": value} for value in (12.0, None, 9.0)]
    rows = [Prediction(one.id, first.time, "1", wine, 5.0) for one, wine in zip(others, alcohol, strict=True)]
    later = Prediction(first.id, first.time + timedelta(seconds=1), "1", first.features, 5.0)
    insert(database_url, [later, *rows])
    labels.add(database_url, dict.fromkeys((one.id for one in (later, *rows)), 5))
    assert list(labels.labelled_predictions(database_url)["id"]) == [rows[2].id, rows[0].id, rows[1].id, later.id]


def test_unknown_ids_are_named_ten_at_most_and_no_label_is_stored(database_url, ids):
    with pytest.raises(DataError, match=r"^2 of 3 ids have no stored prediction: typo, other\. No label is stored"):
        labels.add(database_url, {ids[0]: 7, "typo": 5, "other": 6})
    with pytest.raises(DataError, match=r"^250 of 250 ids .*: id-0, .*, id-9 and 240 more\. No label"):
        labels.add(database_url, {f"id-{n}": 5 for n in range(250)})
    assert by_id(database_url) == {}
    labels.add(database_url, {ids[0]: 7})
    assert by_id(database_url) == {ids[0]: 7}


def test_a_label_is_accepted_once_its_prediction_has_arrived(database_url, tmp_path):
    (early,) = new_predictions(1)
    store = PredictionStore(tmp_path / "queue", database_url)
    with pytest.raises(DataError, match=rf"{early.id}.*may still be in the queue: then add the labels later"):
        labels.add(database_url, {early.id: 6})
    assert store.add([early])
    store.close()
    wait_until(lambda: count(database_url) == 1, "the prediction")
    labels.add(database_url, {early.id: 6})
    assert by_id(database_url) == {early.id: 6}
    labels.add(database_url, {early.id: np.int64(7)})
    assert by_id(database_url) == {early.id: 7}


@pytest.mark.parametrize("wrong", [11, -1, 5.5, "6", None, True])
def test_an_invalid_label_is_rejected_and_none_is_stored(database_url, ids, wrong):
    with pytest.raises(DataError, match=f"quality of {ids[1]}: .* is not a whole number from 0 to 10"):
        labels.add(database_url, {ids[0]: 7, ids[1]: wrong})
    assert by_id(database_url) == {}


def test_a_database_that_is_away_is_one_line(tmp_path):
    away = f"sqlite:///{tmp_path}/missing/predictions.db"
    with pytest.raises(PredictionsError, match=r"labels cannot be stored .* fix WINE_PREDICTIONS"):
        labels.add(away, {"an-id": 5})
    with pytest.raises(PredictionsError, match="cannot be read"):
        labels.labelled_predictions(away)
