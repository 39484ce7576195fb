import numpy as np
import pytest

from wine_quality.chemistry import CHEMISTRY, with_chemistry
from wine_quality.models import build, fit, predict
from wine_quality.schema import FEATURES


def test_the_columns_of_one_wine_are_those_worked_out_by_hand(wines):
    first = with_chemistry(wines).iloc[0]
    assert first["molecular_sulfur_dioxide"] == pytest.approx(12 / (1 + 10 ** (3.45 - 1.81)))
    assert first["bound_sulfur_dioxide"] == 24
    assert first["free_share"] == pytest.approx(1 / 3)
    assert first["volatile_share"] == pytest.approx(0.655 / 7.25)
    assert first["citric_share"] == pytest.approx(0.05 / 7.25)
    assert first["sugar_to_acid"] == pytest.approx(1.95 / 7.25)
    assert first["sulphates_to_chlorides"] == pytest.approx(0.58 / 0.0815)
    assert first["extract"] == pytest.approx(2580 * (0.9968 + 0.00126 * 9.75 - 1))
    assert first["dry_extract"] == pytest.approx(first["extract"] - 1.95)


def test_nothing_else_changes_and_quality_is_not_read(wines):
    made = with_chemistry(wines)
    assert made[wines.columns].equals(wines)
    assert list(made.columns) == [*wines.columns, *CHEMISTRY]
    assert with_chemistry(wines[FEATURES])[list(CHEMISTRY)].equals(made[list(CHEMISTRY)])


def test_zero_gives_no_infinity(wines):
    zeros = wines.assign(free_sulfur_dioxide=0.0, total_sulfur_dioxide=0.0, chlorides=0.0)
    assert np.isfinite(with_chemistry(zeros)[list(CHEMISTRY)]).all().all()


def test_a_blank_blanks_only_what_hangs_on_it(wines):
    wines.loc[0, "pH"] = np.nan
    blank = with_chemistry(wines)[list(CHEMISTRY)].isna()
    assert blank.loc[0].to_dict() == {name: name == "molecular_sulfur_dioxide" for name in CHEMISTRY}
    assert not blank.loc[1:].any().any()


def test_a_model_with_the_chemist_s_columns_takes_wines_with_blanks(wines):
    wines.loc[0, "pH"] = np.nan
    pipeline = fit(build("extra_trees", 1, features="chemist", n_estimators=5), wines)
    assert np.isfinite(predict(pipeline, wines)).all()
    assert pipeline["model"].n_features_in_ == 21
