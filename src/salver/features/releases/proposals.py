"""Completion of a proposed release from the registry.

Missing values come from the registry: the alias that moves, its current version, the policy. For a model that
is served from a folder without a registry, the stable version must be given.
"""

from typing import Any

import msgspec

from salver.features.registry.aliases import IMMEDIATE
from salver.features.registry.names import CHAMPION, Reference, parse
from salver.features.registry.records import Model, Version
from salver.features.registry.registry import ModelRegistry
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import Release, proposed
from salver.words.errors import InvalidInput, NotFound


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A proposed release; empty fields are taken from the registry.

    Attributes:
        version: The new version.
        alias: Alias moved on promotion.
    """

    model: str
    version: str
    stable: str = ""
    alias: str = ""
    policy: Policy | None = None


async def proposal(registry: ModelRegistry, said: Proposal, id: str, now: float) -> Release:
    """Return the release, which is not stored yet.

    Raises:
        NotFound: the registry knows the model but not the version or alias.
        InvalidInput: the stable version is unknown, or the policy uses an output that does not exist.
    """
    try:
        model = await registry.model(said.model)
    except NotFound:
        return _unregistered(said, id, now)
    alias = said.alias or model.default_alias or (CHAMPION if CHAMPION in model.aliases else "")
    if alias and alias not in model.aliases:
        raise NotFound(
            f"the model '{model.name}' has no alias '{alias}', so that there is nothing to take the place of",
            field="alias",
            fix=f"Let it mean a version first: salver registry alias {model.name}@{alias} VERSION",
        )
    stable = said.stable or (alias and str(model.aliases[alias]))
    if not stable:
        raise InvalidInput(
            f"no alias of '{model.name}' says which version {said.version} should replace",
            field="stable",
            fix=f"Say --stable VERSION, or: salver registry alias {model.name}@{CHAMPION} VERSION",
        )
    policy = said.policy or _policy(model)
    for version in (stable, said.version):
        check_outputs(policy, await registry.version(_named(model, version)))
    return proposed(id, model.name, (stable, said.version), policy, now, alias=alias)


def check_outputs(policy: Policy, version: Version) -> None:
    """Check that a version has the outputs that a policy uses; a missing one would break no rule.

    Raises:
        InvalidInput: one is missing. Versions with unknown outputs are accepted.
    """
    names = [output["name"] for output in version.description.signature.get("outputs", ())]
    for metric in policy.metrics:
        if names and metric.output and metric.output not in names:
            raise InvalidInput(
                f"metric '{metric.name}' looks at the output '{metric.output}', which "
                f"{version.model}/{version.number} does not have",
                field="policy.metrics",
                fix=f"It has: {', '.join(names)}.",
            )


def _named(model: Model, version: str) -> Reference:
    try:
        return parse(f"{model.name}/{version}")
    except InvalidInput as error:
        raise InvalidInput(
            f"{version[:200]!r} is no version of '{model.name}'; versions are numbers as listed",
            field="version",
            fix=f"List: salver registry list {model.name}.",
        ) from error


def _unregistered(said: Proposal, id: str, now: float) -> Release:
    if said.alias:
        raise NotFound(
            f"the model '{said.model}' is not in the registry, and only there are aliases", field="model"
        )
    if not said.stable:
        raise NotFound(
            f"the model '{said.model}' is not in the registry",
            field="model",
            fix="`salver registry list` has those that are. Of one that is served from a folder say --stable "
            "VERSION, whose place is to be taken.",
        )
    return proposed(id, said.model, (said.stable, said.version), said.policy or Policy(), now)


def _policy(model: Model) -> Policy:
    """Return the model's own policy, or the default for a release requested by name."""
    own: Any = model.policy
    if own == IMMEDIATE:
        return Policy()
    return Policy.from_json(msgspec.json.encode(own))
