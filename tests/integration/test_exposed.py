"""Every route and method of a server without keys, at an address that other machines reach."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from access_world import Asking, askings, serving

from salver.transport.restrict import Right

#: Rights of what changes something.
CHANGES: tuple[Right, ...] = ("models", "registry", "releases", "outcomes", "access")
#: Ports whose only caller is a platform.
PLATFORMS = ("sagemaker", "vertex-ai")
#: Operations that only read, but by the right over access.
READING = ("/api/v1/keys", "/api/v1/keys/mlp", "/api/v1/limits")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_nobody_runs_a_model_or_changes_anything(tmp_path: Path, host: str) -> None:
    """What reads is answered, and so is everything at an address of this machine."""
    async with serving(tmp_path, "", host=host, registry={"ledger": str(tmp_path / "registry")}) as ports:
        every = list(askings(ports.server))
        assert {"infer", "read", *CHANGES} <= {asking.right for asking in every}
        is_exposed = host == "0.0.0.0"
        said = [(asking, await ports.ask(asking)) for asking in every]
        # A model that takes tensors has no route for raw inputs.
        found = [(asking, each.is_refused) for asking, each in said if "Malformed request" not in each.text]
        assert len(found) > len(said) - 8
        wrong = [asking for asking, is_refused in found if is_refused != (is_exposed and may_not(asking))]
        assert not wrong, [(*asking[:4], (await ports.ask(asking))[:2]) for asking in wrong]
        assert ports.server.ports.refuses_inference is is_exposed


def may_not(asking: Asking) -> bool:
    if asking.right == "infer":
        return asking.kind not in PLATFORMS
    return asking.right in CHANGES and not is_read(asking, READING)


def is_read(asking: Asking, names: Sequence[str]) -> bool:
    return asking.verb in ("GET", "") and asking.path.endswith(tuple(names))
