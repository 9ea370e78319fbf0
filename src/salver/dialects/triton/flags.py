"""Which flags has tritonserver, and what becomes of each under ``salver serve --compat triton``?

Those that do here what they do there, and those that are accepted and have no effect. Facts: the command line
of tritonserver 2.71.
"""

from typing import Final

from salver.terminal.server_flags import CommandLine, FlagType

#: Flags with an effect: what they take, and a line for --help.
USED: Final[dict[str, tuple[FlagType, str]]] = {
    "id": ("text", "name in server metadata (triton)"),
    "exit-timeout-secs": ("int", "for requests in flight when the server stops (30)"),
    "model-repository": ("text", "folder of models, or s3://, gs:// or as:// URL of one; may be repeated"),
    "model-store": ("text", "the same"),
    "exit-on-error": ("bool", "end when a model does not load at the start (true)"),
    "strict-readiness": ("bool", "ready only while every model is (true)"),
    "model-control-mode": ("text", "none, poll or explicit (none)"),
    "repository-poll-secs": ("int", "between two looks at the disk, with poll (15)"),
    "load-model": ("text", "a model to load at the start, with explicit; * for all; may be repeated"),
    "disable-auto-complete-config": ("switch", "models need a config.pbtxt that says everything"),
    "strict-model-config": ("bool", "the same (false)"),
    "model-config-name": ("text", "configs/NAME.pbtxt of a model stands for its config.pbtxt"),
    "model-namespacing": ("bool", "models of several repositories may have one name (false)"),
    "model-load-thread-count": ("int", "versions that load at the same time (4)"),
    "model-load-retry-count": ("int", "further tries of a version that does not load (0)"),
    "backend-directory": ("text", "folder of backends that are programs: BACKEND/model.py"),
    "backend-config": ("text", "BACKEND,default-max-batch-size=N (4), or without BACKEND; may be repeated"),
    "allow-http": ("bool", "open the HTTP port (true)"),
    "http-address": ("text", "address to listen on (127.0.0.1)"),
    "http-port": ("int", "(8000); 0 picks a free one"),
    "reuse-http-port": ("bool", "share the port with other processes (false)"),
    "http-header-forward-pattern": ("text", "headers that become request parameters"),
    "http-max-input-size": ("int", "most bytes of a body (67108864)"),
    "http-restricted-api": ("text", "GROUP[,GROUP...]:HEADER=VALUE; may be repeated"),
    "allow-grpc": ("bool", "open the gRPC port (true)"),
    "grpc-address": ("text", "address to listen on (127.0.0.1)"),
    "grpc-port": ("int", "(8001)"),
    "reuse-grpc-port": ("bool", "share the port with other processes (false)"),
    "grpc-header-forward-pattern": ("text", "metadata that become request parameters"),
    "grpc-restricted-protocol": ("text", "as --http-restricted-api; may be repeated"),
    "grpc-use-ssl": ("bool", "encrypt the gRPC port (false)"),
    "grpc-use-ssl-mutual": ("bool", "and ask callers for a certificate (false)"),
    "grpc-server-cert": ("text", "PEM file"),
    "grpc-server-key": ("text", "PEM file"),
    "grpc-root-cert": ("text", "PEM bundle that signs callers' certificates"),
    "allow-sagemaker": ("bool", "open a port for SageMaker, as its environment says (false)"),
    "sagemaker-port": ("int", "(8080); on the address of HTTP, or on every one"),
    "sagemaker-safe-port-range": ("text", "LOW-HIGH that the other ports must lie in"),
    "allow-vertex-ai": ("bool", "open a port for Vertex AI (true where AIP_MODE=PREDICTION)"),
    "vertex-ai-port": ("int", "(AIP_HTTP_PORT, or 8080); on the address of HTTP, or on every one"),
    "vertex-ai-default-model": ("text", "answers the predict route (the only model)"),
    "grpc-infer-response-compression-level": ("text", "none, low, medium or high (none)"),
    "allow-metrics": ("bool", "open the metrics port (true)"),
    "metrics-address": ("text", "address to listen on (that of HTTP)"),
    "metrics-port": ("int", "(8002)"),
    "metrics-config": ("text", "counter_, summary_, histogram_latencies, summary_quantiles; may be repeated"),
    "cache-config": ("text", "local,size=BYTES, or another cache and its settings; may be repeated"),
    "response-cache-byte-size": ("int", "as --cache-config local,size="),
    "rate-limit": ("text", "off, or execution_count: runs wait for resources that models share (off)"),
    "rate-limit-resource": ("text", "NAME:COUNT[:DEVICE] that there are; may be repeated"),
    "allow-client-shm": ("bool", "let callers keep tensors in any segment of /dev/shm here (false)"),
    "log-verbose": ("int", "1 and more log at level debug (0)"),
    "log-info": ("bool", "log at level info (true)"),
    "log-warning": ("bool", "log at level warning (true)"),
    "log-error": ("bool", "log at level error (true)"),
    "log-file": ("text", "takes the log (standard error)"),
    "trace-config": ("text", "mode, level, rate, count, triton,file=, opentelemetry,url=…; may be repeated"),
    "trace-file": ("text", "as --trace-config triton,file="),
    "trace-level": ("text", "as --trace-config level="),
    "trace-rate": ("int", "as --trace-config rate="),
    "trace-count": ("text", "as --trace-config count="),
    "trace-log-frequency": ("int", "as --trace-config triton,log-frequency="),
}

#: Flags of Triton's OpenAI front end with an effect; one of them opens its port.
OPENAI: Final[dict[str, tuple[FlagType, str]]] = {
    "openai-port": ("int", "port of OpenAI's routes (9000)"),
    "host": ("text", "address of every port (127.0.0.1)"),
    "tokenizer": ("text", "local folder of a tokenizer: its chat template, and counts of tokens"),
    "chat-template": ("text", "Jinja file that makes prompts of messages"),
    "tool-call-parser": ("text", "how models write calls of tools: llama3 or mistral"),
    "max-tool-call-parse-bytes": ("int", "most text that is kept until it is a call (1048576)"),
    "default-max-tokens": ("int", "of an answer, where the request says nothing (16)"),
    "lora-separator": ("text", "stands between a model's name and a LoRA's"),
    "openai-restricted-api": ("three", "GROUP[,GROUP...] HEADER VALUE; may be repeated"),
    "enable-kserve-frontends": ("switch", "open the ports of HTTP, gRPC and metrics, too (false)"),
    "kserve-http-port": ("int", "as --http-port"),
    "kserve-grpc-port": ("int", "as --grpc-port"),
    "tritonserver-log-verbose-level": ("int", "as --log-verbose"),
}

_ALWAYS = "Salver does that by itself"
_NO_GPU = "it is about GPUs"
_FIXED = "the front has limits of its own"
_METRICS = "all of Salver's metrics are always counted, and read when asked for"

#: Flags without an effect here, and why.
IGNORED: Final[dict[str, tuple[FlagType, str]]] = {
    "enable-peer-access": ("bool", _NO_GPU),
    "http-thread-count": ("int", _ALWAYS),
    "grpc-infer-thread-count": ("int", _ALWAYS),
    "grpc-infer-allocation-pool-size": ("int", _ALWAYS),
    "grpc-max-response-pool-size": ("int", _ALWAYS),
    "grpc-keepalive-time": ("int", _FIXED),
    "grpc-keepalive-timeout": ("int", _FIXED),
    "grpc-keepalive-permit-without-calls": ("bool", _FIXED),
    "grpc-http2-max-pings-without-data": ("int", _FIXED),
    "grpc-http2-min-recv-ping-interval-without-data": ("int", _FIXED),
    "grpc-http2-max-ping-strikes": ("int", _FIXED),
    "grpc-max-connection-age": ("int", _FIXED),
    "grpc-max-connection-age-grace": ("int", _FIXED),
    "log-format": ("text", "lines are Salver's own: text on a terminal, else JSON"),
    "sagemaker-thread-count": ("int", _ALWAYS),
    "vertex-ai-thread-count": ("int", _ALWAYS),
    "allow-gpu-metrics": ("bool", _NO_GPU),
    "allow-cpu-metrics": ("bool", _METRICS),
    "metrics-interval-ms": ("int", _METRICS),
    "cache-directory": ("text", "caches are Python packages"),
    "repoagent-directory": ("text", "the agent checksum is built in, and there is no other"),
    "pinned-memory-pool-byte-size": ("int", _NO_GPU),
    "cuda-memory-pool-byte-size": ("text", _NO_GPU),
    "cuda-virtual-address-size": ("text", _NO_GPU),
    "min-supported-compute-capability": ("text", _NO_GPU),
    "model-load-gpu-limit": ("text", _NO_GPU),
    "buffer-manager-thread-count": ("int", _ALWAYS),
    "host-policy": ("text", "placement is Salver's own"),
    "backend": ("text", "a model's inputs say how it is asked"),
    "uvicorn-log-level": ("text", "there is one log, with a level of its own"),
}


#: Settings of the Python backend (``--backend-config``), and why each has no effect here.
PYTHON_SETTINGS: Final[dict[str, str]] = {
    "python,shm-default-byte-size": ": shared memory begins with 1 MiB, and untouched pages cost nothing",
    "python,shm-growth-byte-size": ": shared memory grows as the tensors need it",
    "python,shm-region-prefix-name": ": segments have no names, and are gone with their processes",
    "python,stub-timeout-seconds": ": a process is waited for as long as it lives while it loads",
}

#: Flags of ``salver serve`` itself that go with tritonserver's.
OWN: Final[dict[str, tuple[FlagType, str]]] = {
    "trust-pickle": (
        "switch",
        "allow pickle and joblib files, and requests to bring models of any format",
    ),
    "drain-delay": ("seconds", "after SIGTERM, not ready and answering (0 on a terminal, else 5)"),
    "allow-openai": ("bool", "open the port of OpenAI's routes (true where a flag of its is given)"),
    "state-dir": ("text", "where profiles of models with an objective are kept"),
    "cors-origin": ("text", "origin whose pages may ask over HTTP; * for every one; may be repeated"),
    "tls-cert": ("text", "PEM file; encrypts the HTTP port, with tls-key"),
    "tls-key": ("text", "PEM file"),
    "tls-client-ca": ("text", "PEM bundle that signs certificates of HTTP callers"),
    "api-token-file": ("text", "file of the token that changes need: loads, unloads, settings (none)"),
    "allowed-host": (
        "text",
        "name besides localhost by which a port of this machine alone may be asked; may be repeated",
    ),
    "access-log": ("text", "off, errors or all (off)"),
    "json": ("switch", "print the start-up block as a JSON object"),
}

TRITON: Final = CommandLine(
    "triton",
    "tritonserver",
    {**USED, **OPENAI},
    IGNORED,
    OWN,
    "Models are named by --model-repository.",
    "--model-repository=FOLDER",
)
