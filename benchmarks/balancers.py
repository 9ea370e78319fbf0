"""Claim: with an instance slow or killed, more is answered in time than behind HAProxy or nginx.

    python benchmarks/balancers.py [--seconds 10] [--rounds 2] [--cases quiet,slow,killed]

Three servers with a model that takes 5 ms and answers one request at a time; in front of them Salver
(``instances.toml``), HAProxy and nginx, in turns. Arrivals are Poisson, at half of what three servers can
do; an answer counts if it came within 50 ms of its scheduled time. In ``slow`` one server takes 50 ms, in
``killed`` one gets SIGKILL after a third of the time. Each run starts everything anew. The balancer, its
servers and the generator share the machine.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openloop
from processes import Launch, Server, free_port, running

SALVER = str(Path(sys.executable).with_name("salver"))
SERVICE_S, SLOWER, DEADLINE_S, SHARE = 0.005, 10, 0.05, 0.5
COUNT = 3
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
).encode()
PATH = "/v2/models/sum/infer"
_MODEL = """\
import time


class Model:
    inputs = {"x": ("FP32", [-1, 3])}
    outputs = {"sum": ("FP32", [-1])}

    def predict(self, inputs):
        time.sleep(%s)
        return {"sum": inputs["x"].sum(axis=1)}
"""
_HAPROXY = """\
global
  maxconn 4096
defaults
  mode http
  timeout connect 1s
  timeout client 10s
  timeout server 10s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout 502 503
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  balance leastconn
  http-reuse always
  option httpchk GET /v2/health/ready
"""
_NGINX = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream out {{
    least_conn;
    keepalive 64;
{servers}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://out;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_connect_timeout 1s;
      proxy_read_timeout 10s;
      proxy_next_upstream error timeout http_502 http_503 non_idempotent;
    }}
  }}
}}
"""


class Row(NamedTuple):
    """What one run gave: shares of the requests, milliseconds, and microseconds of processor time."""

    in_time: float
    failed: float
    p99_ms: float
    cpu_us: float


def salver(port: int, backs: list[int], folder: Path) -> Launch:
    """Salver in front."""
    (folder / "models" / "sum").mkdir(parents=True)
    urls = ", ".join(f'"http://127.0.0.1:{back}"' for back in backs)
    (folder / "models" / "sum" / "instances.toml").write_text(f"instances = [{urls}]\n")
    return Launch([SALVER, "serve", str(folder / "models"), "--port", str(port)], cwd=folder)


def haproxy(port: int, backs: list[int], folder: Path) -> Launch:
    """HAProxy in front."""
    servers = "".join(f"  server s{back} 127.0.0.1:{back} check inter 1s fall 2 rise 1\n" for back in backs)
    (folder / "haproxy.cfg").write_text(_HAPROXY.format(port=port) + servers)
    return Launch([str(shutil.which("haproxy")), "-f", str(folder / "haproxy.cfg")], cwd=folder)


def nginx(port: int, backs: list[int], folder: Path) -> Launch:
    """nginx in front."""
    servers = "\n".join(f"    server 127.0.0.1:{back} max_fails=3 fail_timeout=5s;" for back in backs)
    (folder / "nginx.conf").write_text(_NGINX.format(port=port, servers=servers, folder=folder))
    argv = [str(shutil.which("nginx")), "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    return Launch(argv, cwd=folder)


BALANCERS: dict[str, Callable[[int, list[int], Path], Launch]] = {
    "salver": salver,
    "haproxy": haproxy,
    "nginx": nginx,
}


def back(port: int, seconds: float, folder: Path) -> Launch:
    """One server."""
    (folder / "sum").mkdir(parents=True)
    (folder / "sum" / "model.py").write_text(_MODEL % seconds)
    (folder / "sum" / "salver.toml").write_text("batching = { enabled = false }\n[instances]\ncount = 1\n")
    return Launch([SALVER, "serve", str(folder), "--port", str(port)], cwd=folder)


def answers(port: int) -> bool:
    """Whether a request is answered."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("POST", PATH, BODY, {"content-type": "application/json"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


@contextlib.contextmanager
def servers(case: str, folder: Path) -> Iterator[tuple[list[int], list[Server]]]:
    """Start the servers; of ``slow``, the last one is."""
    with contextlib.ExitStack() as stack:
        ports, found = [], []
        for number in range(COUNT):
            port, own = free_port(), folder / f"back{number}"
            is_slow = case == "slow" and number == COUNT - 1
            launch = back(port, SERVICE_S * (SLOWER if is_slow else 1), own)
            found.append(
                stack.enter_context(running(launch, folder / f"back{number}.log", lambda p=port: answers(p)))
            )
            ports.append(port)
        yield ports, found


def run(name: str, case: str, seconds: float, seed: int) -> Row:
    """One run of one balancer."""
    with tempfile.TemporaryDirectory(prefix="salver-balancers-") as text:
        folder = Path(text)
        (folder / "front").mkdir()
        with servers(case, folder) as (ports, found):
            port = free_port()
            launch = BALANCERS[name](port, ports, folder / "front")
            with running(launch, folder / "front.log", lambda: answers(port)) as front:
                rate = SHARE * COUNT / SERVICE_S
                rng = np.random.default_rng(seed)
                asked = openloop.Question(PATH, BODY, {"content-type": "application/json"})
                openloop.run(port, openloop.poisson(rate / 2, 2.0, rng), [asked], connections=256, opened=64)
                timer = threading.Timer(seconds / 3, os.kill, (found[0].process.pid, signal.SIGKILL))
                if case == "killed":
                    timer.start()
                before = front.cpu_seconds()
                times = openloop.poisson(rate, seconds, rng)
                got = openloop.run(port, times, [asked], connections=256, opened=64)
                spent = front.cpu_seconds() - before
                timer.cancel()
    good = got.status == 200
    return Row(
        float(got.within(DEADLINE_S).mean()),
        float((~good).mean()),
        float(np.nanquantile(got.latency[good], 0.99)) * 1e3,
        spent / len(times) * 1e6,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=["quiet", "slow", "killed"])
    options = parser.parse_args()
    names = [name for name in BALANCERS if name == "salver" or shutil.which(name)]
    if missing := set(BALANCERS) - set(names):
        print(f"not here, so left out: {', '.join(sorted(missing))} (apt-get install haproxy nginx)")
    print("| case | balancer | in time | failed | p99 ms | CPU µs a request |\n|---|---|---:|---:|---:|---:|")
    for case in options.cases:
        rows: dict[str, list[Row]] = {name: [] for name in names}
        for seed in range(options.rounds):
            for name in names:
                rows[name].append(run(name, case, options.seconds, seed))
        for name in names:
            middle = [statistics.median(column) for column in zip(*rows[name], strict=True)]
            print(
                f"| {case} | {name} | {middle[0]:.2%} | {middle[1]:.3%} | {middle[2]:.1f} "
                f"| {middle[3]:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
