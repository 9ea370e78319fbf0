"""Errors of requests that no loaded copy can answer, with Triton's texts (TR-R30). Pure."""

from collections.abc import Container, Sequence

import msgspec

from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, NotFound, NotReady, NoVersion, SalverError
from salver.words.messages import ModelId, State, VersionStatus


class ServedVersions(msgspec.Struct, frozen=True):
    """Versions that a lifecycle serves.

    Attributes:
        statuses: One per version.
        once: Models that have been served before.
        wanted: Versions that are or will be loaded.
        waiting: Ensembles that wait for their members.
        rising: Models of which a version is loading.
        broken: Ensembles that lack a member.
        is_stopping: The server is shutting down.
    """

    statuses: Sequence[VersionStatus]
    once: Container[str]
    wanted: Container[ModelId]
    waiting: Container[ModelId]
    rising: Container[str]
    broken: Sequence[Manifest]
    is_stopping: bool


def error_of(name: str, version: str, known: ServedVersions) -> SalverError:
    """Return the error of a request for a model, with any pending reason.

    Args:
        version: Empty = the default.
    """
    statuses = [s for s in known.statuses if s.id.name == name]
    if version and not version.isdecimal() and all(s.id.version != version for s in statuses):
        return NoVersion(
            f"failed to get model version from specified version string '{version}' (details: stol), "
            "version should be an integral value > 0"
        )
    if not statuses and name not in known.once:
        return _unknown(name, known.statuses)
    if version:
        statuses = [s for s in statuses if s.id.version == version]
        if not statuses or (statuses[0].state is State.GONE and not _comes(statuses[0].id, known)):
            return NotFound(
                f"Request for unknown model: '{name}' version {version} is not found", field="version"
            )
        text = f"Request for unknown model: '{name}' version {version} is not at ready state"
    else:
        text = f"Request for unknown model: '{name}' has no available versions"
        is_rising = name in known.rising or any(s.id in known.waiting for s in statuses)
        if not is_rising and not known.is_stopping:
            why = [manifest.problem for manifest in known.broken if manifest.id.name == name]
            return NotFound(f"{text} ({why[0]})" if why else text, field="model")
    reasons = "; ".join(
        f"version {s.id.version} is {s.state.value}: {s.reason}" for s in statuses if s.reason
    )
    return NotReady(f"{text} ({reasons})" if reasons else text, field="model")


def _comes(id: ModelId, known: ServedVersions) -> bool:
    return id in known.wanted or id in known.waiting


def _unknown(name: str, statuses: Sequence[VersionStatus]) -> SalverError:
    """Return the error of a name that no model has; it may lack its namespace."""
    spaced = {s.id.name for s in statuses if s.id.name.endswith(f"::{name}")}
    if not spaced:
        return NotFound(f"Request for unknown model: '{name}' is not found", field="model")
    return InvalidInput(
        f"There are {len(spaced)} identifiers of model '{name}' in global map, "
        "model namespace must be provided to resolve ambiguity.",
        field="model",
        fix=f"Ask for {' or '.join(sorted(spaced))}.",
    )
