"""tritonserver's flags under ``salver serve --compat triton``: those with an effect and those without.

Source: the command line of tritonserver 2.71.
"""

from typing import Final

from salver.terminal.server_flags import CommandLine, FlagType

#: Flags with an effect: the type, and a line for --help with the default in brackets.
USED: Final[dict[str, tuple[FlagType, str]]] = {
    "id": ("text", "name in the server metadata (triton)"),
    "exit-timeout-secs": ("int", "seconds for requests in flight when the server stops (30)"),
    "model-repository": ("text", "folder of models, or s3://, gs:// or as:// URL of one; may be repeated"),
    "model-store": ("text", "same as --model-repository"),
    "exit-on-error": ("bool", "exit if a model does not load at the start (true)"),
    "strict-readiness": ("bool", "be ready only while every model is (true)"),
    "model-control-mode": ("text", "none, poll or explicit (none)"),
    "repository-poll-secs": ("int", "seconds between two looks at the disk, with poll (15)"),
    "load-model": ("text", "model to load at the start, with explicit; * = all; may be repeated"),
    "disable-auto-complete-config": ("switch", "require a complete config.pbtxt of every model"),
    "strict-model-config": ("bool", "same as --disable-auto-complete-config (false)"),
    "model-config-name": ("text", "use configs/NAME.pbtxt of a model instead of its config.pbtxt"),
    "model-namespacing": ("bool", "allow models of the same name in several repositories (false)"),
    "model-load-thread-count": ("int", "versions that load at the same time (4)"),
    "model-load-retry-count": ("int", "retries of a version that does not load (0)"),
    "backend-directory": ("text", "folder of backends that are programs: BACKEND/model.py"),
    "backend-config": ("text", "BACKEND,default-max-batch-size=N (4), or without BACKEND; may be repeated"),
    "allow-http": ("bool", "open the HTTP port (true)"),
    "http-address": ("text", "address to listen on (127.0.0.1)"),
    "http-port": ("int", "port of HTTP (8000); 0 = any free one"),
    "reuse-http-port": ("bool", "share the port with other processes (false)"),
    "http-header-forward-pattern": ("text", "headers that become request parameters"),
    "http-max-input-size": ("int", "largest body, in bytes (67108864)"),
    "http-restricted-api": ("text", "GROUP[,GROUP...]:HEADER=VALUE; may be repeated"),
    "allow-grpc": ("bool", "open the gRPC port (true)"),
    "grpc-address": ("text", "address to listen on (127.0.0.1)"),
    "grpc-port": ("int", "port of gRPC (8001)"),
    "reuse-grpc-port": ("bool", "share the port with other processes (false)"),
    "grpc-header-forward-pattern": ("text", "metadata that becomes request parameters"),
    "grpc-restricted-protocol": ("text", "as --http-restricted-api; may be repeated"),
    "grpc-use-ssl": ("bool", "encrypt the gRPC port (false)"),
    "grpc-use-ssl-mutual": ("bool", "encrypt the gRPC port and require certificates of callers (false)"),
    "grpc-server-cert": ("text", "PEM file"),
    "grpc-server-key": ("text", "PEM file"),
    "grpc-root-cert": ("text", "PEM bundle; callers need a certificate signed by it"),
    "allow-sagemaker": ("bool", "open a port for SageMaker, as its environment says (false)"),
    "sagemaker-port": ("int", "port for SageMaker (8080), on the address of HTTP or on all"),
    "sagemaker-safe-port-range": ("text", "LOW-HIGH, the range of the other ports"),
    "allow-vertex-ai": ("bool", "open a port for Vertex AI (true where AIP_MODE=PREDICTION)"),
    "vertex-ai-port": (
        "int",
        "port for Vertex AI (AIP_HTTP_PORT, or 8080), on the address of HTTP or on all",
    ),
    "vertex-ai-default-model": ("text", "model of the predict route (the only model)"),
    "grpc-infer-response-compression-level": ("text", "none, low, medium or high (none)"),
    "allow-metrics": ("bool", "open the metrics port (true)"),
    "metrics-address": ("text", "address to listen on (that of HTTP)"),
    "metrics-port": ("int", "port of the metrics page (8002)"),
    "metrics-config": ("text", "counter_, summary_, histogram_latencies, summary_quantiles; may be repeated"),
    "cache-config": ("text", "local,size=BYTES, or another cache and its settings; may be repeated"),
    "response-cache-byte-size": ("int", "same as --cache-config local,size="),
    "rate-limit": ("text", "off, or execution_count: runs wait for shared resources (off)"),
    "rate-limit-resource": ("text", "NAME:COUNT[:DEVICE] of a shared resource; may be repeated"),
    "allow-client-shm": ("bool", "let callers keep tensors in segments of /dev/shm (false)"),
    "log-verbose": ("int", "1 or more = log at level debug (0)"),
    "log-info": ("bool", "log at level info (true)"),
    "log-warning": ("bool", "log at level warning (true)"),
    "log-error": ("bool", "log at level error (true)"),
    "log-file": ("text", "file to append the log to (standard error)"),
    "trace-config": ("text", "mode, level, rate, count, triton,file=, opentelemetry,url=…; may be repeated"),
    "trace-file": ("text", "same as --trace-config triton,file="),
    "trace-level": ("text", "same as --trace-config level="),
    "trace-rate": ("int", "same as --trace-config rate="),
    "trace-count": ("text", "same as --trace-config count="),
    "trace-log-frequency": ("int", "same as --trace-config triton,log-frequency="),
}

#: Flags of Triton's OpenAI front end with an effect; one of them opens its port.
OPENAI: Final[dict[str, tuple[FlagType, str]]] = {
    "openai-port": ("int", "port of OpenAI's routes (9000)"),
    "host": ("text", "address of every port (127.0.0.1)"),
    "tokenizer": ("text", "local folder of a tokenizer, for its chat template and token counts"),
    "chat-template": ("text", "Jinja file of the template that turns messages into a prompt"),
    "tool-call-parser": ("text", "syntax of tool calls in answers: llama3 or mistral"),
    "max-tool-call-parse-bytes": ("int", "bytes of text held back as a possible tool call (1048576)"),
    "default-max-tokens": ("int", "most tokens in an answer, if the request sets no limit (16)"),
    "lora-separator": ("text", "separator between the name of a model and of a LoRA"),
    "openai-restricted-api": ("three", "GROUP[,GROUP...] HEADER VALUE; may be repeated"),
    "enable-kserve-frontends": ("switch", "also open the ports of HTTP, gRPC and metrics (false)"),
    "kserve-http-port": ("int", "same as --http-port"),
    "kserve-grpc-port": ("int", "same as --grpc-port"),
    "tritonserver-log-verbose-level": ("int", "same as --log-verbose"),
}

_ALWAYS = "Salver does that by itself"
_NO_GPU = "it is about GPUs"
_FIXED = "the front has limits of its own"
_METRICS = "all of Salver's metrics are always counted, and read when asked for"

#: Flags without an effect here, with the reason.
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
    "backend": ("text", "the request's form follows from the model's inputs"),
    "uvicorn-log-level": ("text", "there is one log, with a level of its own"),
}

#: Settings of the Python backend (``--backend-config``) without an effect here, with the reason.
PYTHON_SETTINGS: Final[dict[str, str]] = {
    "python,shm-default-byte-size": ": shared memory begins with 1 MiB, and untouched pages cost nothing",
    "python,shm-growth-byte-size": ": shared memory grows as the tensors need it",
    "python,shm-region-prefix-name": ": segments have no names, and end with their processes",
    "python,stub-timeout-seconds": ": a model may take any time to load while its process lives",
}

#: Flags of ``salver serve`` itself that are also accepted.
OWN: Final[dict[str, tuple[FlagType, str]]] = {
    "trust-pickle": (
        "switch",
        "allow models whose loading runs code, such as pickles, also from requests",
    ),
    "drain-delay": ("seconds", "seconds after SIGTERM, not ready but answering (0 on a terminal, else 5)"),
    "allow-openai": ("bool", "open the port of OpenAI's routes (true if one of its flags is given)"),
    "state-dir": ("text", "folder for profiles of models with an objective"),
    "cors-origin": ("text", "origin whose pages may call over HTTP; * = any; may be repeated"),
    "tls-cert": ("text", "PEM file; encrypts the HTTP port, with tls-key"),
    "tls-key": ("text", "PEM file"),
    "tls-client-ca": ("text", "PEM bundle; HTTP callers need a certificate signed by it"),
    "identity-file": ("text", "file of issuers of JWTs, trusted proxies, and rights by claims (none)"),
    "keys-file": ("text", "file of keys (salver keys), one of which every request needs (none)"),
    "api-token-file": ("text", "file with the token that changes need, such as loading a model (none)"),
    "allowed-host": (
        "text",
        "host name, besides localhost, that callers of a local port may use; may be repeated",
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
