"""Train the models of this folder in scikit-learn 1.6.1: run it there, in this folder.

    uv run --with scikit-learn==1.6.1,skops==0.13.0,numpy==2.3.5,scipy==1.15.3 python train.py

Newer versions say of the trees "No module named '_loss'". It prints what the trees say of the rows 4 and 5.
"""

import joblib
import numpy as np
import skops.io
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LinearRegression

rows = np.arange(40.0).reshape(10, 4)
trees = GradientBoostingClassifier(n_estimators=2).fit(rows, rows.sum(1) > 80)
joblib.dump(trees, "trees.joblib", compress=3)
skops.io.dump(LinearRegression().fit(rows, rows.sum(1)), "line.skops")
print(trees.predict_proba(rows[4:6]).tolist())
