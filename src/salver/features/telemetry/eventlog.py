"""Log lines for events.

Changes of state are always logged; requests depending on the mode of the access log. Values of tensors are
never logged: events do not contain them.
"""

import logging
from collections.abc import Sequence
from typing import Literal

from salver.kernel.logs import present, trace_id
from salver.words.events import Event, Refused, Served, StateChanged
from salver.words.messages import State

_LEVELS = {State.READY: logging.INFO, State.GONE: logging.INFO, State.FAILED: logging.ERROR}


class EventLog:
    """Observer that logs events.

    Args:
        access_log: Requests to log: none, the failed ones, all.
    """

    takes_refused = True

    def __init__(self, access_log: Literal["off", "errors", "all"] = "off") -> None:
        self._requests = access_log
        self._access = logging.getLogger("salver.access")
        self._lifecycle = logging.getLogger("salver.lifecycle")

    def observe(self, events: Sequence[Event]) -> None:
        """Log a batch of events."""
        if self._requests == "off":  # nearly all events are of requests
            events = [event for event in events if type(event) is StateChanged]
        for event in events:
            if type(event) is Served:
                if self._requests == "all" or event.outcome != "ok":
                    self._access.info({"event": "request", **_request_fields(event)})
            elif type(event) is Refused:
                for each in event.each():
                    self._access.info({"event": "request", **_request_fields(each)})
            elif type(event) is StateChanged:
                text, id = f"model {event.after.lower()}", event.id
                reason = "" if event.after is State.GONE else event.reason  # a failure is logged once
                fields = present(event=text, model=id.name, version=id.version, reason=reason)
                self._lifecycle.log(_LEVELS.get(event.after, logging.DEBUG), fields)


def _request_fields(event: Served) -> dict[str, object]:
    timing = event.timing
    return present(
        model=event.model,
        version=event.version,
        protocol=event.protocol,
        outcome=event.outcome,
        why=event.why,
        ms=round(event.latency * 1e3, 3),
        queue_ms=round((timing.queue + timing.formation) * 1e3, 3),
        inference_ms=round(timing.inference * 1e3, 3),
        rows=event.rows,
        batch_rows=timing.batch_rows,
        tenant=event.tenant,
        request_id=event.request_id,
        trace_id=trace_id(event.traceparent),
    )
