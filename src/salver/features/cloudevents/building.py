"""Parts of CloudEvents: the wrapper of the ports, and the sender."""

import os
from collections.abc import Sequence

import msgspec

from salver.features import CloudEventsConfig
from salver.features.cloudevents.events_app import EventsApp
from salver.features.cloudevents.sending import EventSender
from salver.parts import Kernel, Parts
from salver.transport.doors import App


async def build(kernel: Kernel, config: CloudEventsConfig) -> Parts:
    """Return the wrapper of the ports, and what sends events."""
    if not config.service:  # KServe sets it in every container
        config = msgspec.structs.replace(config, service=os.environ.get("INFERENCE_SERVICE_NAME", ""))
    if not config.url:
        return Parts(enclose=lambda apps: [EventsApp(app, config, None) for app in apps])
    sender = EventSender(config)

    def enclose(apps: Sequence[App]) -> Sequence[App]:
        return [EventsApp(app, config, sender) for app in apps]

    return Parts(enclose=enclose, collectors=[sender], close=sender.close)
