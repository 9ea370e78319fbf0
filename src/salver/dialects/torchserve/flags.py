"""Options of ``torchserve``, with a few of Salver's (TS-K1).

Abbreviations and errors are those of TorchServe's own parser.
"""

import argparse
import functools
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
    """Options of a ``torchserve`` command line.

    Attributes:
        models: ``file`` or ``name=file`` each, or one ``all``.
        is_foreground: Whether the server stays in the foreground.
        keeps_snapshots: Whether snapshots are written to ``logs/config``, and the last one is used.
        has_tokens: Whether callers need tokens, unless the file says otherwise.
        may_register: Whether the model API is enabled, whatever the file says.
        metrics: Whether metrics are also served under TorchServe's names.
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
    metrics: Literal["true", "false"] = "true"
    grace_seconds: float = 30.0
    drain_delay: str | None = None
    exits_on_error: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    state_dir: str | None = None
    keys_file: str = ""
    identity_file: str = ""
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
    """Return the options of a command line. Exits with 2 if they are wrong, as ``torchserve`` does."""
    return msgspec.convert(vars(_parser().parse_args([*words])), Options)


def _parser() -> argparse.ArgumentParser:
    """Return a parser whose results are fields of :class:`Options`, which has the defaults."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        description="Serve as TorchServe does; the same as salver serve --compat torchserve.",
        argument_default=argparse.SUPPRESS,
    )
    verbs = parser.add_mutually_exclusive_group()
    verb = functools.partial(verbs.add_argument, dest="verb", action="store_const")
    verb("-v", "--version", const="version", help="print the version and exit")
    verb("--start", const="start", help="start the server (the default)")
    verb("--stop", const="stop", help="stop the server that was started last")
    add = parser.add_argument
    add("--ts-config", dest="config", metavar="FILE", help="config.properties")
    add("--model-store", metavar="FOLDER", help="folder of archives")
    add("--workflow-store", metavar="FOLDER", help="folder of workflow archives")
    add("--models", nargs="+", metavar="[NAME=]FILE", help="archives to load at the start, or all")
    add("--log-config", metavar="FILE", help=f"no effect: {IGNORED['--log-config']}")
    add("--cpp-log-config", metavar="FILE", help=f"no effect: {IGNORED['--cpp-log-config']}")
    no_effect = f"no effect: {IGNORED['--plugins-path']}"
    add("--plugins-path", "--ppath", dest="plugins", metavar="PATH", help=no_effect)
    add("--foreground", dest="is_foreground", help="stay in the foreground", action="store_true")
    snapshots = "neither write nor read snapshots"
    add("--no-config-snapshots", "--ncs", dest="keeps_snapshots", help=snapshots, action="store_false")
    add("--disable-token-auth", "--dt", dest="has_tokens", help="require no tokens", action="store_false")
    registering = "allow requests to register and unregister models"
    add("--enable-model-api", dest="may_register", help=registering, action="store_true")
    add = parser.add_argument_group("Salver's own").add_argument
    add("--grace-seconds", type=float, help="seconds for requests in flight when the server stops (30)")
    draining = "seconds after SIGTERM when the server is not ready, but answers (0 on a terminal, else 5)"
    add("--drain-delay", help=draining)
    failing = "exit with 1 if an archive cannot be registered at the start"
    add("--exit-on-error", dest="exits_on_error", help=failing, action="store_true")
    add("--log-level", choices=("debug", "info", "warning", "error"))
    add("--state-dir", help="folder for profiles of models; '' = no profiles")
    metrics = "also serve metrics under TorchServe's names (true)"
    add("--torchserve-metrics", dest="metrics", choices=("true", "false"), help=metrics)
    add(
        "--keys-file",
        help="file of keys (salver keys), one of which every request needs, or a token where one is enough",
    )
    vouching = "file of issuers of JWTs, trusted proxies, and rights by claims"
    add("--identity-file", help=vouching)
    hosts = "host name, besides localhost, that callers of a local port may use"
    add("--allowed-host", dest="hosts", action="append", metavar="NAME", help=hosts)
    add("--json", help="print the start-up block as a JSON object", action="store_true")
    return parser
