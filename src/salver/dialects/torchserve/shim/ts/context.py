"""Context of a handler: its model, its requests, and settings of their replies."""

import os
from collections.abc import Mapping
from typing import Any


class RequestProcessor:
    """One request: its headers, and settings of its reply besides the body.

    Args:
        request_header: Headers as they were sent; look-ups are case-sensitive.
    """

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._asked = request_header
        self._headers: dict[str, str] = {}
        self._status = 200
        self._phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        """Return a header, or for a part's name its ``{"content-type": …}``; None = none."""
        return self._asked.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        """Return all headers."""
        return self._asked

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the status of the reply."""
        self._status = code
        self._phrase = reason_phrase

    def get_response_status_code(self) -> int:
        """Return the status of the reply; 200 unless set."""
        return self._status

    def get_response_status_phrase(self) -> str | None:
        """Return the phrase of the reply's status; None = the standard one."""
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the reply."""
        self._headers[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Return the headers of the reply."""
        return self._headers

    def get_response_header(self, key: str) -> str | None:
        """Return a header of the reply."""
        return self._headers.get(key)


class Context:
    """A handler's model and the requests of the current run; ``idx`` is a request's index.

    Attributes:
        model_name: Name of the model on the server.
        manifest: ``MAR-INF/MANIFEST.json`` of its archive.
        model_yaml_config: Content of ``model-config.yaml``.
        metrics: Metrics of the handler.
        request_ids: Ids of requests, by index.
        request_processor: A :class:`RequestProcessor` for each request.
        stopping_criteria: With continuous batching, a function for each request that returns whether an
            output is its last one.
        cl_socket: Takes pieces of replies (``ts.handler_utils.utils``).
    """

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest: Any = manifest
        self.metrics = metrics
        self.model_yaml_config = model_yaml_config
        self.request_ids: Mapping[int, str] | None = None
        self.request_processor: Any = None
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.header_key_sequence_id = _named("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = _named("TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start")
        self.header_key_sequence_end = _named("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")

    def __repr__(self) -> str:
        return f"<Context of {self.model_name}, {len(self.request_ids or ())} requests>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def system_properties(self) -> dict[str, Any]:
        """Return the model's folder, batch size and GPU, and properties of the server."""
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the id of a request; None = no such request."""
        return (self.request_ids or {}).get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """Return a header by the name that was sent; None = none."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Return all headers, and parts' names with their content types."""
        headers: dict[str, Any] = self.request_processor[idx].get_request_properties()
        return headers

    def get_sequence_id(self, idx: int) -> Any:
        """Return the id of the request's sequence; None = none."""
        return self.get_request_header(idx, self.header_key_sequence_id)

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of a reply, which has none by default."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the content type of a reply."""
        return self.get_response_headers(idx).get("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of one reply."""
        if self.request_processor is not None and self.request_processor[idx] is not None:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of all replies."""
        for processor in self.request_processor:
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Return code and phrase of a reply's status."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of a reply; names are case-sensitive."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers of a reply."""
        headers: dict[str, str] = self.request_processor[idx].get_response_headers()
        return headers


def _named(variable: str, usual: str) -> str:
    """Return the name of a header, which operators may change."""
    return os.environ.get(variable, usual)
