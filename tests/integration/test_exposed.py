"""Every route and method of a server without keys, at an address that other machines reach."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from access_world import Asking, Said, askings, serving

from salver.transport.restrict import Right

#: Rights of what changes something.
CHANGES: tuple[Right, ...] = ("models", "registry", "releases", "outcomes", "access")
#: Ports whose only caller is a platform.
PLATFORMS = ("sagemaker", "vertex-ai")
#: Operations that only read, but by the right over access.
READING = ("/api/v1/keys", "/api/v1/keys/mlp", "/api/v1/limits")
#: Paths of the forms of other servers, which only servers have whose models suit them.
AT_THE_ROOT = (
    "/", "/decode", "/embed", "/embed_all", "/info", "/predict", "/rerank", "/similarity", "/tokenize",
)  # fmt: skip
#: Those below a model.
OF_RAW_INPUTS = tuple(
    f"/v1/models/mlp{path}" for path in ("", "/versions/1", "/invocations", *AT_THE_ROOT) if path != "/"
)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_nobody_runs_a_model_or_changes_anything(tmp_path: Path, host: str) -> None:
    """What reads is answered, and so is everything at an address of this machine."""
    async with serving(tmp_path, "", host=host, registry={"ledger": str(tmp_path / "registry")}) as ports:
        every = list(askings(ports.server))
        assert {"infer", "read", *CHANGES} <= {asking.right for asking in every}
        is_exposed = host == "0.0.0.0"
        said = [(asking, await ports.ask(asking)) for asking in every]
        # A model that takes tensors has no route for raw inputs, nor for the forms of other servers.
        unknown = [asking for asking, each in said if is_unknown(asking, each)]
        assert {asking.path for asking in unknown} <= {*OF_RAW_INPUTS, *AT_THE_ROOT}
        found = [(asking, each.is_refused) for asking, each in said if not is_unknown(asking, each)]
        wrong = [asking for asking, is_refused in found if is_refused != (is_exposed and may_not(asking))]
        assert not wrong, [(*asking[:4], (await ports.ask(asking))[:2]) for asking in wrong]
        assert ports.server.ports.refuses_inference is is_exposed


def is_unknown(asking: Asking, each: Said) -> bool:
    """Whether there is no such path, with the models that are here."""
    is_of_form = asking.path in AT_THE_ROOT and asking.right == "infer"
    return "Malformed request" in each.text or (is_of_form and each.status in (404, 405))


def may_not(asking: Asking) -> bool:
    if asking.right == "infer":
        return asking.kind not in PLATFORMS
    return asking.right in CHANGES and not is_read(asking, READING)


def is_read(asking: Asking, names: Sequence[str]) -> bool:
    return asking.verb in ("GET", "") and asking.path.endswith(tuple(names))
