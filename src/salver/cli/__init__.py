"""The ``salver`` command.

:data:`COMMANDS` names where each command is defined; a module is imported when its command runs, so that
``--help``, ``--version`` and shell completion do not wait for others.
"""

import gc
import os
import re
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Final

from cyclopts import App, Parameter
from cyclopts.config import Env

from salver import __version__, is_compiled
from salver.cli.serve import serve
from salver.cli.serve_options import SOURCES
from salver.cli.start import run
from salver.lazy import installed, lazy_imports
from salver.terminal.output import report_error
from salver.words.errors import SalverError

with lazy_imports():
    from salver.cli.compat import serve_as


if TYPE_CHECKING:
    from salver.configuration import Startup

#: Commands by name: where each is defined, and its line in ``salver --help``.
COMMANDS: Final = {
    "models": (
        "salver.cli.models:models",
        "List, load and unload models of a running server. Set SALVER_TOKEN where it wants a token.",
    ),
    "keys": (
        "salver.features.keyring.command:keys",
        "Make, list, rotate, limit and revoke the keys that callers of a server need.",
    ),
    "memory": (
        "salver.features.memory.command:memory",
        "Show which models of a server are in memory, and what makes room.",
    ),
    "instances": (
        "salver.features.routing.command:instances",
        "Show the servers that answer for a model, drain one, or let it take part again.",
    ),
    "route": (
        "salver.features.routing.rules.command:route",
        "Show and check the rules on requests, and explain which one decides.",
    ),
    "placement": (
        "salver.features.cluster.placement.command:placement",
        "Show where the replicas of a cluster go, and why.",
    ),
    "environments": (
        "salver.cli.environments:environments",
        "List and remove the Python environments that models have had made.",
    ),
    "usage": (
        "salver.features.usage.command:usage",
        "Show what keys have used, by model and hour, or export it as CSV or Parquet.",
    ),
    "registry": (
        "salver.features.registry.command:registry",
        "Keep models in versions, with aliases that move, and a history.",
    ),
    "backup": (
        "salver.cli.backup:backup",
        "Back up a whole server, verify backups, and restore one.",
    ),
    "rollout": (
        "salver.features.releases.command:rollout",
        "Release a new version to a growing share of the traffic, and judge it.",
    ),
    "pipelines": (
        "salver.features.pipelines.command:pipelines",
        "Show the graph of a pipeline.toml, checked as a server checks it.",
    ),
    "trunk": (
        "salver.features.trunks.command:trunk",
        "Cut ONNX models into the part that they share and a head each, as pipelines.",
    ),
    "calibrate": (
        "salver.features.evaluation.calibrate_command:calibrate",
        "Fit the calibration of scores on predictions with their outcomes, and show how reliable they are.",
    ),
    "cache": (
        "salver.features.cache.command:cache",
        "Show what the response cache saves, by model, and which size would save most.",
    ),
    "evaluate": (
        "salver.features.evaluation.evaluate_command:evaluate",
        "Compare pipelines and models on labelled rows: accuracy beside processor time.",
    ),
    "infer": (
        "salver.cli.infer:infer",
        "Ask a model of a running server once, or about every row of a file.",
    ),
    "explain": (
        "salver.features.telemetry.explain_command:explain",
        "Show where the time of a model's requests goes.",
    ),
    "bench": ("salver.features.tuning.bench_command:bench", "Measure a model under open-loop load."),
    "tune": (
        "salver.features.tuning.tune_command:tune",
        "Measure a model, and choose instances, threads and batch size for an objective.",
    ),
    "plan": (
        "salver.features.tuning.plan_command:plan",
        "Show which models keep their latency promises together, and on which cores.",
    ),
    "build": (
        "salver.cli.build:build",
        "Write the context of a container image: models, Salver, and their packages, locked by hash.",
    ),
    "doctor": (
        "salver.cli.doctor:doctor",
        "Show what is installed and what this machine can do; with PATH, why a model does not load.",
    ),
    "config": ("salver.cli.config_command:config", "Show and check the configuration."),
    "migrate": (
        "salver.cli.migrate:migrate",
        "Show what of a TorchServe, Triton or TensorFlow Serving deployment runs here, and how to serve it.",
    ),
    "torchserve": ("salver.cli.torchserve:torchserve", "Serve as TorchServe does, with its options."),
}
#: Variables that Kubernetes sets in every pod beside a service called "salver".
_OF_A_SERVICE: Final = re.compile(r"SALVER_(SERVICE_(HOST|PORT).*|PORT_\d+_(TCP|UDP|SCTP).*|PORT)")


def app() -> App:
    """Return the command line.

    Each option can be given by an environment variable, too: ``SALVER_PORT`` for ``salver serve --port``,
    ``SALVER_BENCH_SECONDS`` for ``salver bench --seconds``. Flags override variables.
    """
    root = App(
        name="salver",
        version=lambda: f"{__version__} compiled" if is_compiled() else __version__,
        help="Serve models of every framework from one process and one port. Each option can be given by an "
        "environment variable, too: SALVER_PORT for salver serve, SALVER_BENCH_SECONDS for salver bench.",
        default_parameter=Parameter(negative=(), show_default=_show_default),
        result_action="return_value",
        config=(Env("SALVER_", show=False),),
    )
    root.command(serve, config=SOURCES, result_action=_start)
    for name, (reference, text) in COMMANDS.items():
        root.command(reference, name=name, help=text)
    for name, reference in _of_other_packages():
        root.command(reference, name=name)
    root.register_install_completion_command(help="Install completion for the shell in use.")
    return root


def _start(start: "Startup | None") -> int:
    """Run the server that ``salver serve`` has configured; None = it has shown its help."""
    return 0 if start is None else run(start)


def _of_other_packages() -> Iterator[tuple[str, str]]:
    """Yield the commands that features outside Salver bring; without one, nothing is imported."""
    entries = installed("salver.features")
    if all(entry.value.startswith("salver.") for entry in entries):
        return
    from salver.feature import discover

    for feature in discover(entries):
        yield from ((name, path) for name, path in feature.commands.items() if name not in COMMANDS)


def _show_default(value: object) -> object:
    """Return a default that is worth showing; None for an empty one."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    if value is False or value == "":
        return None
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 when something is wrong; a wrong command line exits with 2 by itself.
    """
    gc.set_threshold(50_000, 50, 100)  # imports make many objects and little garbage: a tenth of the start
    words = sys.argv[1:] if arguments is None else list(arguments)
    _forget_services(os.environ)
    try:
        if _has_other_flags(words) and (status := serve_as(words)) is not None:
            return status
        return int(app()(_without_repeated(words)) or 0)
    except SalverError as error:
        report_error(error, json="--json" in words)
        return 1
    except BrokenPipeError:  # the reader of our output, `head` for instance, has seen enough
        sys.stderr.close()
        return 1


def _without_repeated(words: list[str]) -> list[str]:
    """Return the words with the last of each repeated flag; nothing is imported if none is repeated."""
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    if len(set(flags)) == len(flags):
        return words
    from salver.cli.repeated import later_wins

    return later_wins(app(), words)


def _has_other_flags(words: Sequence[str]) -> bool:
    """Return whether a command line may have the flags of another server."""
    return words[:1] == ["torchserve"] or any(word.startswith("--compat") for word in words)


def _forget_services(environment: MutableMapping[str, str]) -> None:
    """Remove the variables of a Kubernetes service called "salver", such as ``SALVER_PORT=tcp://…``."""
    for name, value in list(environment.items()):
        if _OF_A_SERVICE.fullmatch(name) and (name != "SALVER_PORT" or "://" in value):
            del environment[name]
