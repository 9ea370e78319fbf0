"""Options of ``torchserve``, with a few of Salver's (TS-K1).

Abbreviations and errors are those of TorchServe's own parser.
"""

import argparse
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

PROGRAM: Final = "salver torchserve"
#: Version of TorchServe whose options and keys these are.
VERSION: Final = "0.12.0"
#: File of the keys, in the folder in which the server starts.
KEY_FILE: Final = "key_file.json"
Verb = Literal["start", "stop", "version"]
#: Options without an effect here, and why.
IGNORED: Final = {
    "--log-config": "Salver does not use Log4j",
    "--cpp-log-config": "Salver has no C++ backend",
    "--plugins-path": "Salver does not use Java",
    "--ppath": "Salver does not use Java",
}


class Options(msgspec.Struct, frozen=True):
    """The options of a ``torchserve`` command line.

    Attributes:
        models: ``file`` or ``name=file`` each, or one ``all``.
        is_foreground: Do not start in the background.
        keeps_snapshots: Write snapshots to ``logs/config``, and start from the last one.
        has_tokens: Require tokens, unless the file says otherwise.
        may_register: Enable the model API, whatever the file says.
        has_metrics: Also serve metrics under TorchServe's names.
    """

    verb: Verb = "start"
    config: str = ""
    model_store: str = ""
    workflow_store: str = ""
    models: tuple[str, ...] = ()
    log_config: str = ""
    cpp_log_config: str = ""
    plugins: str = ""
    is_foreground: bool = False
    keeps_snapshots: bool = True
    has_tokens: bool = True
    may_register: bool = False
    has_metrics: bool = True
    grace_seconds: float = 30.0
    drain_delay: str | None = None
    exits_on_error: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    state_dir: str | None = None
    json: bool = False
    hosts: tuple[str, ...] = ()

    def settings(self) -> dict[str, str]:
        """Return the options that override keys of config.properties."""
        found = {
            "model_store": self.model_store,
            "workflow_store": self.workflow_store,
            "load_models": ",".join(self.models),
        }
        if self.may_register:
            found["enable_model_api"] = "true"
        if not self.has_tokens:
            found["disable_token_authorization"] = "true"
        return {name: value for name, value in found.items() if value}


def parse(words: Sequence[str]) -> Options:
    """Return the options of a command line. Exits with 2 where they are wrong, as ``torchserve`` does."""
    given = _parser().parse_args([*words])
    verb: Verb = "start"
    if given.version:
        verb = "version"
    elif given.stop:
        verb = "stop"
    return Options(
        verb,
        given.ts_config,
        given.model_store,
        given.workflow_store,
        tuple(given.models),
        given.log_config,
        given.cpp_log_config,
        given.plugins_path,
        given.foreground,
        not given.no_config_snapshots,
        not given.disable_token_auth,
        given.enable_model_api,
        given.torchserve_metrics == "true",
        given.grace_seconds,
        given.drain_delay,
        given.exit_on_error,
        given.log_level,
        given.state_dir,
        given.json,
        tuple(given.allowed_host),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM, description="Serve as TorchServe does; the same as salver serve --compat torchserve."
    )
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("-v", "--version", action="store_true", help="print the version and exit")
    verbs.add_argument("--start", action="store_true", help="start the server (the default)")
    verbs.add_argument("--stop", action="store_true", help="stop the server that was started last")
    text = parser.add_argument
    text("--ts-config", default="", metavar="FILE", help="config.properties")
    text("--model-store", default="", metavar="FOLDER", help="folder of archives")
    text("--workflow-store", default="", metavar="FOLDER", help="folder of workflow archives")
    text(
        "--models", default=(), nargs="+", metavar="[NAME=]FILE", help="archives to load at the start, or all"
    )
    text("--log-config", default="", metavar="FILE", help=f"no effect: {IGNORED['--log-config']}")
    text("--cpp-log-config", default="", metavar="FILE", help=f"no effect: {IGNORED['--cpp-log-config']}")
    text(
        "--plugins-path",
        "--ppath",
        default="",
        metavar="PATH",
        help=f"no effect: {IGNORED['--plugins-path']}",
    )
    text("--foreground", help="stay in the foreground", action="store_true")
    text("--no-config-snapshots", "--ncs", help="neither write nor read snapshots", action="store_true")
    text("--disable-token-auth", "--dt", help="require no tokens", action="store_true")
    text("--enable-model-api", help="allow requests to register and unregister models", action="store_true")
    own = parser.add_argument_group("Salver's own")
    own.add_argument(
        "--grace-seconds",
        type=float,
        default=30.0,
        help="seconds for requests in flight when the server stops (30)",
    )
    own.add_argument(
        "--drain-delay",
        help="seconds after SIGTERM when the server is not ready, but answers (0 on a terminal, else 5)",
    )
    own.add_argument(
        "--exit-on-error",
        action="store_true",
        help="exit with 1 if an archive cannot be registered at the start",
    )
    own.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    own.add_argument("--state-dir", help="folder for profiles of models; '' = no profiles")
    own.add_argument(
        "--torchserve-metrics",
        choices=("true", "false"),
        default="true",
        help="also serve metrics under TorchServe's names (true)",
    )
    own.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name, besides localhost, that callers of a local port may use",
    )
    own.add_argument("--json", action="store_true", help="print the start-up block as a JSON object")
    return parser
