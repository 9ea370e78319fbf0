"""Paths of the console's pages."""

import pytest
from console_world import OVER, RUNNING

PAGES = {
    "models": "",
    "model": "#/models/fraud",
    "routing": "#/routing",
    "releases": "#/releases",
    "running": f"#/releases/{RUNNING}",
    "over": f"#/releases/{OVER}",
    "plan": "#/plan?model=fraud",
    "audit": "#/audit",
    "policy": "#/models/fraud/policy",
    "version": "#/models/fraud/versions/2",
    "webhooks": "#/webhooks",
    "keys": "#/keys",
    "usage": "#/usage",
}
EVERY = pytest.mark.parametrize("path", PAGES.values(), ids=PAGES.keys())
