"""Groups of flags of ``salver serve``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from salver.terminal.options import Artifacts, Registry, state_dir_of

if TYPE_CHECKING:
    from salver.transport.access_check import ApiConfig
    from salver.transport.watch import ConnectionLimits


@Parameter(name="*")
@dataclass(frozen=True)
class Tls:
    """Flags of TLS, and of who may change something."""

    cert: Annotated[str, Parameter(name="--tls-cert", help="PEM file; needs --tls-key.")] = ""
    key: Annotated[str, Parameter(name="--tls-key", help="PEM file; needs --tls-cert.")] = ""
    client_ca: Annotated[
        str,
        Parameter(name="--tls-client-ca", help="PEM bundle; callers need a certificate signed by it."),
    ] = ""
    token_file: Annotated[
        str,
        Parameter(
            name="--api-token-file",
            help="File with the token that changes need, such as loading a model. Without it, changes are "
            "refused if other machines can reach --host.",
        ),
    ] = ""
    keys_file: Annotated[
        str,
        Parameter(
            name="--keys-file",
            help="File of keys (salver keys), one of which every request needs then; '' = none. It is read "
            "again when it changes.",
        ),
    ] = ""
    identity_file: Annotated[
        str,
        Parameter(
            name="--identity-file",
            help="File of issuers of JWTs, trusted proxies, and the rights of their callers and of those "
            "with a certificate; '' = none. It is read again when it changes.",
        ),
    ] = ""
    allows_remote: Annotated[
        bool,
        Parameter(
            name="--allow-remote-control",
            help="Accept changes from other machines without a token.",
        ),
    ] = False
    allows_anonymous: Annotated[
        bool,
        Parameter(
            name="--allow-anonymous",
            help="Let callers from other machines run models without a key. Without it, and without "
            "--keys-file, inference is refused if other machines can reach --host.",
        ),
    ] = False
    hosts: Annotated[
        tuple[str, ...],
        Parameter(
            name="--allowed-host",
            help="Host name, besides localhost, that callers of a local port may use, such as a proxy's.",
        ),
    ] = ()

    def api(self) -> "ApiConfig":
        """Return who may change something."""
        from salver.transport.access_check import ApiConfig

        return ApiConfig(self.token_file, self.allows_remote, self.hosts, self.allows_anonymous)


@Parameter(name="*")
@dataclass(frozen=True)
class Storage:
    """Flags of folders that outlive the server."""

    state_dir: Annotated[
        str | None,
        Parameter(
            help="Folder for profiles of models with an objective; '' = none. "
            "Default: $XDG_STATE_HOME/salver, or ~/.local/state/salver."
        ),
    ] = None
    registry: Registry = ""
    artifacts: Artifacts = ""
    advertise: Annotated[
        str,
        Parameter(
            help="URL at which other servers reach this one, for the list of servers in its ledger. It needs "
            "--registry."
        ),
    ] = ""
    zone: Annotated[str, Parameter(help="Where this server is, in that list, such as eu/a.")] = ""
    wait: Annotated[
        float | None,
        Parameter(
            name="--wait-for-models",
            help="Seconds to wait for a PATH that does not exist yet, such as one that a sidecar mounts. "
            "Default: 0; 600 where KServe brings the models later.",
        ),
    ] = None

    def profiles(self) -> str:
        """Return the folder of the profiles; empty = none."""
        return state_dir_of(self.state_dir)


@Parameter(name="*")
@dataclass(frozen=True)
class Logs:
    """Flags of the log."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Parameter(name="--log-level", help="Least severe level to log."),
    ] = "info"
    format: Annotated[
        Literal["auto", "console", "json"],
        Parameter(name="--log-format", help="Format of log lines; auto = console on a terminal, else json."),
    ] = "auto"
    access: Annotated[
        Literal["off", "errors", "all"],
        Parameter(name="--access-log", help="Requests that get a log line: none, failed ones, or all."),
    ] = "off"
    file: Annotated[
        str, Parameter(name="--log-file", help="File to append the log to; '' = standard error.")
    ] = ""
    predictions: Annotated[
        str,
        Parameter(
            name="--prediction-log",
            help="Folder for logs of requests and answers, of models with [logging]; '' = none.",
        ),
    ] = ""

    events_url: Annotated[
        str,
        Parameter(
            name="--log-url",
            help="URL that gets each request of inference over HTTP, and its answer, as KServe's logger "
            "sends them (CloudEvents); '' = none.",
        ),
    ] = ""
    events_mode: Annotated[
        Literal["all", "request", "response"],
        Parameter(name="--log-mode", help="What --log-url gets."),
    ] = "all"
    answers_events: Annotated[
        bool,
        Parameter(name="--cloud-events", help="Answer a request that is a CloudEvent with one."),
    ] = False

    def events(self) -> dict[str, object]:
        """Return the table ``cloudevents`` of the configuration; empty if nothing is set."""
        table: dict[str, object] = {}
        if self.events_url:
            table = {"url": self.events_url, "mode": self.events_mode}
        if self.answers_events:
            table["answers"] = True
        return table

    def table(self) -> dict[str, object]:
        """Return the table ``log`` of the configuration."""
        return {
            "level": self.level,
            "format": self.format,
            "access_log": self.access,
            "file": self.file,
        }


@Parameter(name="*")
@dataclass(frozen=True)
class Traces:
    """Flags of the trace file."""

    file: Annotated[
        str, Parameter(name="--trace-file", help="File to write traces of requests to; '' = tracing is off.")
    ] = ""
    level: Annotated[
        Literal["off", "timestamps"],
        Parameter(name="--trace-level", help="What is traced at the start; callers can change it."),
    ] = "off"
    rate: Annotated[int, Parameter(name="--trace-rate", help="Trace one request in this many.")] = 1000
    count: Annotated[
        int, Parameter(name="--trace-count", help="Stop after this many traces; -1 = never.")
    ] = -1
    log_frequency: Annotated[
        int,
        Parameter(
            name="--trace-log-frequency",
            help="Traces per file, in FILE.0, FILE.1 and so on; 0 = all in FILE.",
        ),
    ] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Execution:
    """Flags of how models run."""

    instances: Annotated[
        int,
        Parameter(
            name="--instances",
            help="Execution of a model at the same time, if its configuration does not say; 0 = automatic.",
        ),
    ] = 0
    threads: Annotated[
        int,
        Parameter(
            name="--threads",
            help="Threads of each run, if the model's configuration does not say; 0 = automatic.",
        ),
    ] = 0
    fronts: Annotated[
        int,
        Parameter(
            name="--fronts",
            help="Processes that answer at the port. More than 1 use more cores, for small models and many "
            "callers; on two cores that callers share 1 is best for fewer than 64 of them.",
        ),
    ] = 1
    allow_environments: Annotated[
        bool,
        Parameter(
            name="--allow-environments",
            help="Allow Python environments that models name: making and using one runs its code.",
        ),
    ] = False
    memory: Annotated[
        str,
        Parameter(
            name="--memory",
            help="Memory for all models, such as 8GiB; auto = what the machine allows. Models then make room "
            "for each other, and requests wait while theirs is loaded. With GPUs: 8GiB,gpu0=20GiB,gpu1=auto.",
        ),
    ] = ""
    resources: Annotated[
        tuple[str, ...],
        Parameter(
            name="--rate-limit-resource",
            help="NAME:COUNT of a resource that models share; a run waits until enough is free.",
        ),
    ] = ()
    engine: Annotated[
        str,
        Parameter(
            name="--engine",
            help="Where models run: local = in this server; processes = in replicas on this machine; ray = "
            "on a Ray cluster that is started here; ray://HOST:PORT = on the one with this head.",
        ),
    ] = "local"
    engine_nodes: Annotated[
        int,
        Parameter(
            name="--engine-nodes",
            help="Nodes of the Ray cluster that are to be there before models load, if they come within two "
            "minutes after the first one that has memory for models.",
        ),
    ] = 1
    rules_file: Annotated[
        str,
        Parameter(
            name="--rules-file",
            help="File of rules that send requests to other models, change or refuse them; '' = none. It is "
            "read again when it changes.",
        ),
    ] = ""
    prefer: Annotated[
        Literal["tensorflow", "onnx"],
        Parameter(
            help="Framework that runs SavedModels; onnx converts them once, and TensorFlow runs those that "
            "cannot be converted."
        ),
    ] = "tensorflow"


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """Flags of limits on callers, of caches, and of what answers hold."""

    max_body_mb: Annotated[int, Parameter(name="--max-body-mb", help="Largest HTTP body, in MiB.")] = 64
    max_bodies_mb: Annotated[
        int,
        Parameter(
            name="--max-bodies-mb",
            help="Limit on the bodies of all requests together, in MiB; 0 = a quarter of the memory.",
        ),
    ] = 0
    max_connections_per_address: Annotated[
        int,
        Parameter(
            name="--max-connections-per-address",
            help="Most connections from one address; further ones are closed. 0 = no limit.",
        ),
    ] = 0
    min_rate: Annotated[
        float,
        Parameter(
            name="--min-rate",
            help="Bytes a second, over 30 s, below which a connection that sends a request or reads an "
            "answer is closed; 0 = no limit.",
        ),
    ] = 500.0
    max_message_mb: Annotated[
        int, Parameter(name="--max-message-mb", help="Largest gRPC message, in MiB.")
    ] = 2047
    allow_client_shm: Annotated[
        bool,
        Parameter(
            name="--allow-client-shm",
            help="Let callers keep tensors in shared memory, in segments of this machine's /dev/shm.",
        ),
    ] = False
    cors_origins: Annotated[
        tuple[str, ...],
        Parameter(
            name="--cors-origin",
            help="Origin whose pages may call from a browser, such as https://app.example.org; * = any.",
        ),
    ] = ()
    tenant_header: Annotated[
        str,
        Parameter(
            name="--tenant-header",
            help="HTTP header and gRPC metadata that names a request's tenant; '' = none.",
        ),
    ] = "x-tenant"
    response_cache: Annotated[
        str,
        Parameter(
            name="--response-cache",
            help="Cache for answers of models with response_cache, such as local,size=64m; '' = none.",
        ),
    ] = ""
    prefix_cache: Annotated[
        str,
        Parameter(
            name="--prefix-cache",
            help="Memory for states of step-wise models after known beginnings, such as 512m; '' = none.",
        ),
    ] = ""

    first_output: Annotated[
        bool,
        Parameter(
            name="--first-output",
            help="Answer POST /v1/models/NAME:predict with the first output alone, as KServe's servers do, "
            "except of SavedModels; otherwise with all, as TensorFlow Serving does.",
        ),
    ] = False

    is_lenient: Annotated[
        bool,
        Parameter(
            name="--lenient-tensors",
            help="Over Open Inference, take tensors whose names the model does not know by position, and "
            "convert numbers to the model's type, as KServe's servers do; otherwise refuse them, as Triton "
            "does.",
        ),
    ] = False

    def connections(self) -> "ConnectionLimits":
        """Return the limits of each connection."""
        from salver.transport.watch import ConnectionLimits

        return ConnectionLimits(self.max_connections_per_address, self.min_rate)


@Parameter(name="*")
@dataclass(frozen=True)
class Shutdown:
    """Flags of how the server stops."""

    grace_seconds: Annotated[
        float,
        Parameter(
            name="--grace-seconds", help="Seconds that requests in flight have to end when the server stops."
        ),
    ] = 30.0
    drain_delay: Annotated[
        float | None,
        Parameter(
            name="--drain-delay",
            help="Seconds after SIGTERM in which the server is not ready and still answers. "
            "Default: 0 on a terminal, else 5.",
        ),
    ] = None
    exit_on_error: Annotated[
        bool | None,
        Parameter(
            name="--exit-on-error",
            help="Exit with 1 if a model does not load at the start; false = never. "
            "Default: if no model loads.",
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class Generation:
    """Flags of OpenAI's routes, for models that do not configure it themselves."""

    template: Annotated[
        str,
        Parameter(
            name="--chat-template",
            help="Jinja file of the template that turns messages into a prompt.",
        ),
    ] = ""
    tokenizer: Annotated[
        str,
        Parameter(
            name="--tokenizer",
            help="Local folder with tokenizer_config.json (chat template) and tokenizer.json (token counts).",
        ),
    ] = ""
    tools: Annotated[
        Literal["", "llama3", "mistral"],
        Parameter(name="--tool-call-parser", help="Syntax of tool calls in answers; '' = no tool calls."),
    ] = ""
    max_call_bytes: Annotated[
        int,
        Parameter(
            name="--max-tool-call-parse-bytes",
            help="Bytes of text held back as a possible tool call, at most.",
        ),
    ] = 1 << 20
    max_tokens: Annotated[
        int,
        Parameter(
            name="--default-max-tokens", help="Most tokens in an answer, if the request sets no limit."
        ),
    ] = 16
    lora_separator: Annotated[
        str,
        Parameter(
            name="--lora-separator",
            help="Separator between the name of a model and of a LoRA; '' = names have no LoRA.",
        ),
    ] = ""
