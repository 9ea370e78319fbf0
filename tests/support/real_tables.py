"""A real table with texts, gaps and booleans, and models fitted on it: scikit-learn's diabetes patients.

A patient's body mass index is given as a class too, as people have it in a form, and some values are missing.
"""

from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("normal", "overweight", "obese")
NUMBERS = ["age", "bp", "s1"]
TEXTS = ["weight", "sex"]
UNREAD = "patient"


def patients() -> Any:
    """A data frame of 442 patients; the last column says whether the disease went on fast."""
    import pandas as pd
    from sklearn.datasets import load_diabetes

    found = load_diabetes(as_frame=True, scaled=False)
    data = found.data
    frame = pd.DataFrame(
        {
            UNREAD: [f"P-{i:04}" for i in range(len(data))],
            "age": data.age.astype("int64"),
            "bp": data.bp,
            "s1": data.s1,
            "weight": pd.cut(data.bmi, [0, 25, 30, 99], labels=CLASSES).astype(str),
            "sex": data.sex.map({1: "female", 2: "male"}),
            "fast": np.where(found.target > 140, "yes", "no"),
        }
    )
    random = np.random.default_rng(3)
    frame.loc[random.random(len(frame)) < 0.1, "bp"] = np.nan
    frame.loc[random.random(len(frame)) < 0.1, "weight"] = np.nan
    return frame


def categorical(frame: Any) -> Any:
    """The columns that models read, texts as categories, as boosters take them."""
    return frame[[*NUMBERS, *TEXTS]].astype(dict.fromkeys(TEXTS, "category"))


def pipeline(frame: Any) -> Any:
    """A classifier with columns by name; sex has to be known, and the weight may be missing or anything."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ("weight", OneHotEncoder(handle_unknown="ignore"), ["weight"]),
            ("sex", OneHotEncoder(), ["sex"]),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame.drop(columns="fast"), frame.fast)


def write_pipeline(frame: Any, folder: Path) -> Any:
    """Save the classifier; return it."""
    import skops.io

    folder.mkdir(parents=True, exist_ok=True)
    model = pipeline(frame)
    skops.io.dump(model, folder / "model.skops")
    return model


def write_lightgbm(frame: Any, folder: Path) -> Any:
    """Save a booster with pandas' categories; return it."""
    import lightgbm

    folder.mkdir(parents=True, exist_ok=True)
    data = lightgbm.Dataset(categorical(frame), frame.fast == "yes")
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, data, 20)
    booster.save_model(folder / "model.txt")
    return booster


def write_xgboost(frame: Any, folder: Path, **settings: Any) -> Any:
    """Save a booster with its categories; return a function from data frames to predictions."""
    import xgboost

    def matrix(table: Any, target: Any = None) -> Any:
        return xgboost.DMatrix(table, target, enable_categorical=True, nthread=1)

    folder.mkdir(parents=True, exist_ok=True)
    settings = {"objective": "binary:logistic", "nthread": 1, "max_depth": 4, **settings}
    booster = xgboost.train(settings, matrix(categorical(frame), frame.fast == "yes"), 20)
    booster.save_model(folder / "model.ubj")
    return lambda table: booster.predict(matrix(table))


def records(frame: Any) -> list[dict[str, Any]]:
    """Rows as JSON has them: None where a value is missing."""
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows
