import numpy as np
import pytest

from wine_quality.chemistry import CHEMISTRY, with_chemistry
from wine_quality.models import build, fit, predict
from wine_quality.schema import FEATURES


def test_the_columns_of_one_row_are_those_calculated_by_hand(wines):
    extract = 2580 * (0.9968 + 0.00126 * 9.75 - 1)
    expected = {
        "molecular_sulfur_dioxide": 12 / (1 + 10 ** (3.45 - 1.81)),
        "bound_sulfur_dioxide": 24,
        "free_share": 1 / 3,
        "volatile_share": 0.655 / 7.25,
        "citric_share": 0.05 / 7.25,
        "sugar_to_acid": 1.95 / 7.25,
        "sulphates_to_chlorides": 0.58 / 0.0815,
        "extract": extract,
        "dry_extract": extract - 1.95,
    }
    assert with_chemistry(wines).iloc[0][list(CHEMISTRY)].to_dict() == pytest.approx(expected)


def test_nothing_else_changes_quality_is_not_read_and_zero_gives_no_infinity(wines):
    extended = with_chemistry(wines)
    assert extended[wines.columns].equals(wines)
    assert list(extended.columns) == [*wines.columns, *CHEMISTRY]
    assert with_chemistry(wines[FEATURES])[list(CHEMISTRY)].equals(extended[list(CHEMISTRY)])
    zeros = wines.assign(free_sulfur_dioxide=0.0, total_sulfur_dioxide=0.0, chlorides=0.0)
    assert np.isfinite(with_chemistry(zeros)[list(CHEMISTRY)]).all().all()


def test_a_blank_blanks_only_what_depends_on_it_and_a_model_takes_it(wines):
    wines.loc[0, "pH"] = np.nan
    blank = with_chemistry(wines)[list(CHEMISTRY)].isna()
    assert blank.loc[0].to_dict() == {name: name == "molecular_sulfur_dioxide" for name in CHEMISTRY}
    assert not blank.loc[1:].any().any()
    pipeline = fit(build("extra_trees", 1, features="engineered", n_estimators=5), wines)
    assert np.isfinite(predict(pipeline, wines)).all()
    assert pipeline["model"].n_features_in_ == 21
