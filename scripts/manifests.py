"""Render deploy/kubernetes/NAME.yaml from the chart, with each deploy/kubernetes/values/NAME.yaml.

make .envs/helm/requirements.txt
python scripts/manifests.py
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".envs" / "helm"
CHART = ROOT / "deploy" / "helm" / "salver"
PLAIN = ROOT / "deploy" / "kubernetes"


def helm(*words: str | Path) -> str:
    """Return what a command of Helm prints; it reads and writes no settings of the user's."""
    homes = {f"HELM_{kind}_HOME": str(PLACE / "home") for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        [PLACE / "helm", *words], env={**os.environ, **homes}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr + done.stdout)
    return done.stdout


def rendered(values: Path) -> str:
    """Return the objects of a release named salver, in the namespace salver."""
    printed = helm("template", "salver", CHART, "--namespace", "salver", "--values", values)
    lines = [line.rstrip() for line in printed.splitlines() if not line.startswith("# Source:")]
    text = "\n".join(lines).replace("\n\n---", "\n---").removeprefix("---\n")
    title, _, _ = values.read_text().partition("\n")
    source = (
        f"# Rendered by scripts/manifests.py from deploy/helm/salver and values/{values.name}: change those."
    )
    return f"{title}\n{source}\n{text.rstrip()}\n"


if __name__ == "__main__":
    for each in sorted((PLAIN / "values").glob("*.yaml")):
        (PLAIN / each.name).write_text(rendered(each))
