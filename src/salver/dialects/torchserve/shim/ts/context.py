"""What does a handler know of its model and of its requests, and how does it say more than a body?"""

import os
from collections.abc import Mapping
from typing import Any


class RequestProcessor:
    """One request: its headers, and what is said of its reply beside the body.

    Args:
        request_header: As the headers were sent; looked up by exactly those names.
    """

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._asked = request_header
        self._headers: dict[str, str] = {}
        self._status = 200
        self._phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        """A header of the request; of a part's name, its ``{"content-type": …}``; None = there is none."""
        return self._asked.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        """All of them."""
        return self._asked

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Of the reply."""
        self._status = code
        self._phrase = reason_phrase

    def get_response_status_code(self) -> int:
        """200 as long as nothing else was said."""
        return self._status

    def get_response_status_phrase(self) -> str | None:
        """None = the usual one."""
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        """A header of the reply, in place of an older one."""
        self._headers[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Of the reply."""
        return self._headers

    def get_response_header(self, key: str) -> str | None:
        """One of them."""
        return self._headers.get(key)


class Context:
    """A handler's model, and the requests of the run it is in; ``idx`` counts those.

    Attributes:
        model_name: Under which it is served.
        manifest: ``MAR-INF/MANIFEST.json`` of its archive.
        model_yaml_config: ``model-config.yaml``, as it was read.
        metrics: Where it counts and measures.
        request_ids: By index.
        request_processor: A :class:`RequestProcessor` of each request.
        stopping_criteria: With continuous batching: of each request, what says of its output whether it is
            the last one.
        cl_socket: Where pieces of replies go (``ts.handler_utils.utils``).
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
        """Where the model lies, how large a batch may be, and on what it is to run."""
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        """None: there is no such request."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """By its name as it was sent; None: it was not."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """And parts' names, with their content types."""
        headers: dict[str, Any] = self.request_processor[idx].get_request_properties()
        return headers

    def get_sequence_id(self, idx: int) -> Any:
        """Of the sequence that the request belongs to; None: to none."""
        return self.get_request_header(idx, self.header_key_sequence_id)

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Of a reply; they have none by themselves."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """As it was set."""
        return self.get_response_headers(idx).get("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Of one reply."""
        if self.request_processor is not None and self.request_processor[idx] is not None:
            self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Of all replies of this run."""
        for processor in self.request_processor:
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Code and phrase."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """In place of an older one of exactly this name."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """As they were set."""
        headers: dict[str, str] = self.request_processor[idx].get_response_headers()
        return headers


def _named(variable: str, usual: str) -> str:
    """The name of a header, which operators may change."""
    return os.environ.get(variable, usual)
