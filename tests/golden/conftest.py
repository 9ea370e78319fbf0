"""One real server on the models of the recorded cases, for each way to start it that they name."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from triton_models import ON_DEMAND, write_models

from salver.testing.process import ServerProcess, TritonProcess

#: Options of the server by the name of the profile; the cases without one are ``main``.
PROFILES: dict[str, tuple[str, ...]] = {
    "main": (
        "--model-control-mode=explicit",
        "--exit-on-error=false",
        "--cache-config=local,size=1048576",
        "--allow-client-shm=true",
        "--http-header-forward-pattern=x-fwd-.*",
        "--grpc-header-forward-pattern=x-fwd-.*",
    ),
    "none": ("--model-control-mode=none", "--exit-on-error=false"),
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
    options = [*PROFILES[profile], "--state-dir", ""]
    if profile == "main":
        names = sorted(path.name for path in root.iterdir())
        options += [f"--load-model={name}" for name in names if not name.startswith(ON_DEMAND)]
    return TritonProcess([root], folder / "log", options, ENVIRONMENTS.get(profile))


def wait(server: ServerProcess, profile: str) -> None:
    """Until it has loaded what it can; with models that cannot be loaded it never says that it is ready."""
    if profile == "none":
        server.wait_for("/v2/models/addsub/ready")
        server.wait_for("/v2/models/words/ready")
    else:
        server.wait_ready()


@pytest.fixture(scope="package")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], dict[str, int]]]:
    """Started when the first case of a profile asks for it: where each target listens."""
    servers: dict[str, ServerProcess] = {}
    with ExitStack() as stack:

        def of(profile: str) -> dict[str, int]:
            if profile not in servers:
                server = start(tmp_path_factory.mktemp(profile), profile)
                servers[profile] = stack.enter_context(server)
                wait(server, profile)
            return servers[profile].ports

        yield of
