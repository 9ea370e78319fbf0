"""Ray cluster of three nodes on this machine, all on loopback, in processes of its own. Not a suite itself.

``make .envs/ray-2.60/requirements.txt`` puts Ray where it is looked for. As a program: FOLDER; it prints a
line of JSON when the nodes are there, and ends them at the end of its input.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

PLACE: Final = Path(__file__).parents[2] / ".envs" / "ray-2.60"
#: What a process needs that is to use Ray.
VARIABLES: Final = {
    "PYTHONPATH": str(PLACE),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_METRICS_COLLECTION": "0",
}


class RayNodes(NamedTuple):
    """A running cluster.

    Attributes:
        address: HOST:PORT of its head.
        raylets: Process ids by the id of the node, the head first.
    """

    address: str
    raylets: dict[str, int]


@contextlib.contextmanager
def ray_nodes(folder: Path) -> Iterator[RayNodes]:
    """Run a cluster.

    Args:
        folder: For its files; with a short path, since sockets lie there.
    """
    command: Sequence[str] = [sys.executable, __file__, str(folder)]
    # Ray gives its workers a niceness of 15: beside other tests they would be slow.
    env = {**os.environ, **VARIABLES, "RAY_TMPDIR": str(folder), "RAY_worker_niceness": "0"}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=env) as program:
        assert program.stdin and program.stdout
        try:
            yield RayNodes(**json.loads(program.stdout.readline()))
        finally:
            program.stdin.close()
            program.wait()


def main(folder: Path) -> None:
    (folder / "ray").mkdir(parents=True, exist_ok=True)  # Ray dies without it
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    nodes = [cluster.head_node, *(cluster.add_node(**options) for _ in range(2))]
    raylets = {node.node_id: node.all_processes["raylet"][0].process.pid for node in nodes}
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
