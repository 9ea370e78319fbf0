"""Eight real models of eight backends, served by one process: ``python examples/demo/main.py``.

Builds the model repository on the first run (see build.py), starts ``salver serve`` on it, asks
each model something real (see questions.py), prints the answers and how to ask for yourself, and
stays up until Ctrl-C. With ``--once`` it ends by itself, with exit status 1 if an answer is wrong.
"""

import argparse
import asyncio
import importlib.util
import json
import signal
import sys
from pathlib import Path
from typing import Any

import build
import questions
from rich.console import Console
from rich.table import Table

from salver.client import Client

CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


async def start(repository: Path, port: int) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    """The server and what it says when it is ready; its log goes to a file beside the models."""
    log = repository.parent / "salver.log"
    with log.open("wb") as errors:
        server = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("salver")),
            *("serve", str(repository), "--port", str(port), "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is ours: we stop the server in order
        )
    assert server.stdout is not None
    said = asyncio.create_task(server.stdout.readline())
    told: set[str] = set()
    while not (await asyncio.wait({said}, timeout=0.2))[0]:
        for model in loaded(log.read_text(errors="replace")):
            if model not in told:
                told.add(model)
                CONSOLE.print(f"[dim]  {model} is loaded[/]")
    text = said.result()
    if not text:
        await server.wait()
        raise SystemExit(f"the server did not start; the end of {log}:\n{log.read_text()[-2000:]}")
    return server, json.loads(text)


def loaded(log: str) -> list[str]:
    """The models that the server's log calls ready; the frameworks write into it too."""
    whole = (line for line in log.splitlines() if line.startswith('{"timestamp"') and line.endswith("}"))
    return [entry["model"] for entry in map(json.loads, whole) if entry["event"] == "model ready"]


async def stop(server: asyncio.subprocess.Process) -> None:
    """End the server; it lets requests in flight end."""
    if server.returncode is None:
        server.terminate()
        try:
            await asyncio.wait_for(server.wait(), 20)
        except TimeoutError:
            server.kill()
            await server.wait()


def show(answers: list[questions.Answer]) -> None:
    """The table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "framework", "question", "answer", "ms", "right", ""):
        table.add_column(column, justify="right" if column in ("ms", "right") else "left")
    for a in answers:
        mark = "[green]ok[/]" if a.is_right else "[red]WRONG[/]"
        table.add_row(a.model, a.framework, a.question, a.answer, f"{a.milliseconds:.1f}", a.accuracy, mark)
    CONSOLE.print(table)


def invite(url: str, address: str) -> None:
    """Calls to paste; both answer."""
    CONSOLE.out(f"\nlistening on {url} (HTTP) and {address} (gRPC); metrics at {url}/metrics\n")
    for text in (
        f"curl -s {url}/v2/models/sentences/infer -d "
        """'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["good day"]}]}' | cut -c1-160""",
        "",
        f"{sys.executable} -c '",
        "import numpy as np, tritonclient.grpc as triton",
        f"""client = triton.InferenceServerClient("{address}")""",
        """text = triton.InferInput("text", [2], "BYTES")""",
        """text.set_data_from_numpy(np.array([b"good morning", b"good evening"], dtype=object))""",
        """vectors = client.infer("sentences", [text]).as_numpy("vector")""",
        """print("similarity:", vectors[0] @ vectors[1])'""",
    ):
        CONSOLE.out(text)


async def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--once", action="store_true", help="end after the answers")
    options.add_argument("--port", type=int, default=0, help="0 picks a free one")
    wish = options.parse_args()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)

    repository = build.repository(lambda step: CONSOLE.print(f"[dim]{step}[/]"))
    CONSOLE.print("[dim]starting salver serve[/]")
    server, ready = await start(repository, wish.port)
    try:
        url, address = str(ready["url"]), str(ready["grpc"])
        CONSOLE.print(f"[dim]ready in {ready['seconds']:.1f} s[/]\n")
        down = [model for model in ready["models"] if model["state"] != "READY"]
        for model in down:
            CONSOLE.print(f"[red]{model['name']} does not serve:[/] {model['reason']}", soft_wrap=True)
        async with Client(url) as client:
            answers = await questions.ask_all(client, without={model["name"] for model in down})
        show(answers)
        if importlib.util.find_spec("tritonclient"):
            value = await asyncio.to_thread(questions.through_tritonclient, address)
            CONSOLE.print(f"\ntritonclient over gRPC: 'eating food' and 'eating bread' are {value} alike")
        invite(url, address)
        if not wish.once:
            CONSOLE.print("\nCtrl-C ends it")
            ends = {asyncio.create_task(asked.wait()), asyncio.create_task(server.wait())}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stop(server)
    return int(bool(down) or not all(a.is_right for a in answers))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
