"""One real server on the models of the recorded cases, for each way to start it that they name."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from triton_models import write_models

from salver.testing.process import ServerProcess, TritonProcess

#: Options of the server by the name of the profile; the cases without one are ``main``.
PROFILES: dict[str, tuple[str, ...]] = {
    "main": (
        "--model-control-mode=none",
        "--cache-config=local,size=1048576",
        "--allow-client-shm=true",
        "--http-header-forward-pattern=x-fwd-.*",
        "--grpc-header-forward-pattern=x-fwd-.*",
    ),
    "metrics": (
        "--model-control-mode=explicit",
        "--load-model=addsub",
        "--load-model=cached",
        "--cache-config=local,size=1048576",
        "--metrics-config=summary_latencies=true",
        "--metrics-config=counter_latencies=true",
    ),
    "restricted": (
        "--model-control-mode=explicit",
        "--load-model=addsub",
        "--http-restricted-api=inference,model-config,model-repository:admin-key=sesame",
        "--grpc-restricted-protocol=inference,model-config:admin-key=sesame",
    ),
    "sagemaker": (
        "--model-control-mode=explicit",
        "--load-model=addsub_nobatch",
        "--load-model=addsub",
        "--allow-sagemaker=true",
    ),
    "vertex": (
        "--model-control-mode=explicit",
        "--load-model=addsub_nobatch",
        "--load-model=addsub",
        "--allow-vertex-ai=true",
        "--vertex-ai-default-model=addsub_nobatch",
        "--allow-http=true",
        "--allow-grpc=true",
    ),
}
#: Environment of the server, likewise.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "sagemaker": {
        "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "addsub_nobatch",
        "SAGEMAKER_MULTI_MODEL": "false",
    },
    "vertex": {"AIP_MODE": "PREDICTION", "AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/health"},
}


def start(folder: Path, profile: str) -> ServerProcess:
    """A server on a repository of its own; use as a context manager, then wait for it."""
    root = folder / "repository"
    write_models(root)
    options = (*PROFILES[profile], "--state-dir", "")
    return TritonProcess([root], folder / "log", options, ENVIRONMENTS.get(profile))


@pytest.fixture(scope="package")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], dict[str, int]]]:
    """Started when the first case of a profile asks for it: where each target listens."""
    servers: dict[str, ServerProcess] = {}
    with ExitStack() as stack:

        def of(profile: str) -> dict[str, int]:
            if profile not in servers:
                server = start(tmp_path_factory.mktemp(profile), profile)
                servers[profile] = stack.enter_context(server).wait_ready()
            return servers[profile].ports

        yield of
