"""Operation that sets what moving a model's alias does."""

from functools import partial
from typing import Literal

import msgspec

from salver.features.registry.records import Model
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.registry_operations import actor
from salver.features.releases.judge.policy import Policy
from salver.features.releases.planning_operations import check_size
from salver.transport.operations import Answer, ApiRequest, Operation, Why, tag_of
from salver.words.errors import Outdated


class NewPolicy(Why, frozen=True, forbid_unknown_fields=True):
    """Effect of moving an alias."""

    policy: Literal["immediate"] | Policy


def policy_operation(registry: ModelRegistry) -> Operation:
    """Return the operation that sets a model's policy."""
    return Operation(
        "set_policy",
        "PUT",
        "/models/{model}/policy",
        "What the move of an alias sets off",
        partial(_set_policy, registry),
        Model,
        NewPolicy,
        changes=True,
        is_conditional=True,
    )


async def _set_policy(registry: ModelRegistry, asked: ApiRequest) -> Answer:
    policy = msgspec.to_builtins(asked.body.policy)
    if asked.body.policy != "immediate":
        check_size(asked.body.policy)
    name, seen = asked.names["model"], None
    if asked.expected and "*" not in asked.expected:
        seen = await registry.model(name)
        if tag_of(msgspec.json.encode(seen)) not in asked.expected:
            raise Outdated(
                f"the model '{name}' has changed since it was read",
                field="if-match",
                fix="Read it again, and send the etag of that GET.",
            )
    await registry.set_policy(name, policy, actor(asked.caller), asked.body.reason, expected=seen)
    return Answer(await registry.model(name))
