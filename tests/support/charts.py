"""The Helm chart of ``deploy/helm``, rendered by Helm, which ``make .envs/helm/requirements.txt`` brings."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "manifests.py"))
PLAIN, CHART, PLACE = MANIFESTS["PLAIN"], MANIFESTS["CHART"], MANIFESTS["PLACE"]
with_helm = pytest.mark.skipif(
    not (PLACE / "helm").exists(), reason="make it first: make .envs/helm/requirements.txt"
)


def helm(*words: str | Path) -> str:
    """Return what a command of Helm prints."""
    found: str = MANIFESTS["helm"](*words)
    return found


def template(folder: Path, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a release named salver; the values are written into a folder."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return [*yaml.safe_load_all(helm("template", "salver", CHART, "--values", path))]
