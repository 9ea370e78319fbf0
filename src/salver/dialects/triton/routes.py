"""HTTP operations of Triton's extensions to the Open Inference Protocol. Pure."""

from typing import Final

from salver.transport.routes import Operation

_READS, _CHANGES = False, True
_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_REPOSITORY: Final = "/v2/repository"
_NAMED: Final = "/v2/repository/{repository}"
_SYSTEM: Final = "/v2/systemsharedmemory"
_CUDA: Final = "/v2/cudasharedmemory"
_REGION: Final = "region/{region}"
_NO_NAME: Final = "Refused: repositories have no names"
OPERATIONS: Final = (
    Operation("config", "GET", f"{_MODEL}/config", "Configuration of a model in Triton's form", _READS),
    Operation("config", "GET", f"{_VERSION}/config", "Configuration of a version", _READS),
    Operation(
        "generate", "POST", f"{_MODEL}/generate", "Infer with a model, inputs as plain JSON keys", _READS
    ),
    Operation(
        "generate", "POST", f"{_VERSION}/generate", "Infer with a version, inputs as plain JSON keys", _READS
    ),
    Operation(
        "generate_stream",
        "POST",
        f"{_MODEL}/generate_stream",
        "Infer with a model, as Server-Sent Events",
        _READS,
    ),
    Operation(
        "generate_stream",
        "POST",
        f"{_VERSION}/generate_stream",
        "Infer with a version, as Server-Sent Events",
        _READS,
    ),
    Operation("statistics", "GET", "/v2/models/stats", "Statistics of every model", _READS),
    Operation("statistics", "GET", f"{_MODEL}/stats", "Statistics of a model", _READS),
    Operation("statistics", "GET", f"{_VERSION}/stats", "Statistics of a version", _READS),
    Operation("log_settings", "GET", "/v2/logging", "Log settings", _READS),
    Operation("update_log_settings", "POST", "/v2/logging", "Change the log settings", _CHANGES),
    Operation("trace_setting", "GET", "/v2/trace/setting", "Trace settings", _READS),
    Operation("update_trace_setting", "POST", "/v2/trace/setting", "Change the trace settings", _CHANGES),
    Operation("trace_setting", "GET", f"{_MODEL}/trace/setting", "Trace settings of a model", _READS),
    Operation(
        "update_trace_setting",
        "POST",
        f"{_MODEL}/trace/setting",
        "Change what is traced of a model",
        _CHANGES,
    ),
    Operation("index", "POST", f"{_REPOSITORY}/index", "Every version with its state and reason", _READS),
    Operation("load", "POST", f"{_REPOSITORY}/models/{{model}}/load", "Load or reload a model", _CHANGES),
    Operation("unload", "POST", f"{_REPOSITORY}/models/{{model}}/unload", "Unload a model", _CHANGES),
    Operation(
        "index_named",
        "POST",
        f"{_NAMED}/index",
        "Every version with its state and reason; the name is ignored",
        _READS,
    ),
    Operation("load_named", "POST", f"{_NAMED}/models/{{model}}/load", _NO_NAME, _CHANGES),
    Operation("unload_named", "POST", f"{_NAMED}/models/{{model}}/unload", _NO_NAME, _CHANGES),
    Operation("regions", "GET", f"{_SYSTEM}/status", "Every registered region of shared memory", _READS),
    Operation("regions", "GET", f"{_SYSTEM}/{_REGION}/status", "One region", _READS),
    Operation("region_register", "POST", f"{_SYSTEM}/{_REGION}/register", "Register a region", _CHANGES),
    Operation("region_register", "POST", f"{_SYSTEM}/register", "Refused: name a region", _CHANGES),
    Operation("region_unregister", "POST", f"{_SYSTEM}/unregister", "Unregister every region", _CHANGES),
    Operation(
        "region_unregister", "POST", f"{_SYSTEM}/{_REGION}/unregister", "Unregister a region", _CHANGES
    ),
    Operation("cuda_regions", "GET", f"{_CUDA}/status", "Regions of CUDA memory, always empty", _READS),
    Operation("cuda_regions", "GET", f"{_CUDA}/{_REGION}/status", "Not found", _READS),
    Operation("cuda_register", "POST", f"{_CUDA}/{_REGION}/register", "Refused", _CHANGES),
    Operation("cuda_register", "POST", f"{_CUDA}/register", "Refused", _CHANGES),
    Operation(
        "cuda_unregister",
        "POST",
        f"{_CUDA}/unregister",
        "Unregister regions of CUDA memory, of which there are none",
        _CHANGES,
    ),
    Operation("cuda_unregister", "POST", f"{_CUDA}/{_REGION}/unregister", "The same", _CHANGES),
)
