"""Operations of the management interface on the instances of a model."""

from collections.abc import Callable, Iterable

import msgspec

from salver.features.routing.choosing import Routed
from salver.features.routing.instances import Instance
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.errors import NotFound


class InstanceView(msgspec.Struct, frozen=True):
    """One instance.

    Attributes:
        state: ``available``, ``draining``, ``down`` (its health checks fail), ``ejected`` (its answers
            failed) or ``unfit`` (its model has other inputs or outputs, or answers the probe wrongly).
        why: Reason of the state; empty = there is none to tell.
        pending: Requests under way.
        latency_seconds: Measured latency, as the policy counts it; 0 = none yet.
        returns_seconds: Time until an ejected one is tried again.
    """

    url: str
    state: str
    why: str
    weight: float
    pending: int
    answered: int
    failed: int
    latency_seconds: float
    returns_seconds: float


class InstancesView(msgspec.Struct, frozen=True):
    """Instances of a model.

    Attributes:
        max_requests: Most requests under way at an instance; 0 = no bound.
        retries: Attempts after the first ones failed, since it was loaded.
        hedges: Attempts beside ones that took long.
        retries_left: Retries that the budget still has.
        ejections: Times that an instance was ejected.
        note: What is lacking; empty = nothing is.
    """

    model: str
    version: str
    policy: str
    max_requests: int
    retries: int
    hedges: int
    retries_left: float
    ejections: int
    instances: list[InstanceView]
    note: str = ""


class InstanceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Change of an instance.

    Attributes:
        draining: True = it gets no new requests; False = it takes part again.
    """

    url: str
    draining: bool


def viewed(engine: Routed, now: float) -> InstancesView:
    """Return the instances of a model as they are shown."""
    router = engine.router
    return InstancesView(
        engine.id.name,
        engine.id.version,
        engine.policy,
        router.most,
        router.retries,
        router.hedges,
        round(router.budget.tokens, 1),
        router.ejected,
        [_view(each, now) for each in router.instances],
        router.note,
    )


def _view(instance: Instance, now: float) -> InstanceView:
    load = instance.load
    state, why, returns = "available", "", 0.0
    if instance.unfit:
        state, why = "unfit", instance.unfit
    elif instance.is_draining:
        state = "draining"
    elif instance.is_down:
        state, why = "down", "its health checks fail"
    elif instance.is_ejected:
        state, why = "ejected", f"{instance.failures} failures in a row"
        returns = max(0.0, round(instance.ejected_until - now, 3))
    return InstanceView(
        instance.url,
        state,
        why,
        instance.weight,
        load.pending,
        load.answered,
        load.failed,
        round(load.latency, 6),
        returns,
    )


def instance_operations(
    models: Callable[[], Iterable[Routed]], clock: Callable[[], float]
) -> list[Operation]:
    """Return the operations.

    Args:
        models: Returns the models that are loaded.
    """

    def found(asked: ApiRequest) -> Routed:
        name = asked.names["model"]
        newest = max(
            (each for each in models() if each.id.name == name),
            key=lambda each: (len(each.id.version), each.id.version),
            default=None,
        )
        if newest is None:
            raise NotFound(f"no model '{name}' with instances is loaded here", field="model")
        return newest

    async def tell(asked: ApiRequest) -> Answer:
        return Answer(viewed(found(asked), clock()))

    async def change(asked: ApiRequest) -> Answer:
        engine, wish = found(asked), asked.body
        url = wish.url.rstrip("/")
        instance = next((each for each in engine.router.instances if each.url == url), None)
        if instance is None:
            raise NotFound(f"model '{engine.id.name}' has no instance {url[:200]!r}", field="url")
        instance.is_draining = wish.draining
        return Answer(viewed(engine, clock()))

    path = "/models/{model}/instances"
    about = "Instances of a model: load, health, ejections and retries"
    changing = "Drain an instance of a model, or let it take part again"
    return [
        Operation("instances", "GET", path, about, tell, InstancesView, right="read"),
        Operation(
            *("change_instance", "PATCH", path, changing, change, InstancesView, InstanceChange),
            changes=True,
            right="models",
        ),
    ]
