"""``salver registry verify``, ``copy``, ``sweep`` and ``remove``: maintenance."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from salver.features.registry.command_options import USUAL, RegistryOptions, Why, run
from salver.features.registry.names import parse
from salver.terminal.options import Json, state_dir_of
from salver.terminal.output import listed, result, under_way
from salver.words.errors import InvalidInput
from salver.words.sizes import byte_count

if TYPE_CHECKING:
    from salver.features.registry.inspecting import Inspector
    from salver.features.registry.records import Fault
    from salver.features.registry.replicating import Copied
    from salver.words.artifacts import Manifest
    from salver.words.messages import Signature

_LOAD_SECONDS = 300.0


def inspector(state_dir: str | None, *, trust_pickle: bool, loads: bool) -> "Inspector":
    """Return an inspector with the installed backends."""
    from salver.backends.discovery import backends, recogniser
    from salver.backends.trial import try_load
    from salver.features.registry.inspecting import Inspector
    from salver.features.tuning.profiles import ProfileStore
    from salver.parts import formats

    def tries(manifest: "Manifest") -> "Signature":
        return try_load(manifest, trust_pickle=trust_pickle, timeout=_LOAD_SECONDS)

    known = backends()
    profiles = ProfileStore(state_dir_of(state_dir))
    return Inspector(known, formats(recogniser(known)), profiles, tries if loads else None)


def verify(name: str = "", /, *, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Verify all files against what was pushed; the exit status is 1 if any differ.

    Args:
        name: Name of a model (default: all).
    """
    faults = run(where, lambda registry, _: registry.verify(name))

    def row(fault: "Fault") -> list[str]:
        return [f"{fault.model}/{fault.number}", fault.path, fault.problem]

    columns = ("version", "file", "problem")
    listed(faults, columns, row, json=json, none="every file is as it was pushed")
    return int(bool(faults))


def copy(
    to: str,
    /,
    *,
    bandwidth: Annotated[str, Parameter(help="Bytes a second to read at most, such as 50MB.")] = "",
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Copy the files of all versions to another place that lacks them, such as another region's.

    A copy that was interrupted goes on. Digests are verified. The exit status is 1 if a version is not there
    at the end.

    Args:
        to: Folder, or URL of an object store, as --artifacts of a registry there.
    """
    from salver.features.registry import rows
    from salver.features.registry.opening import artifacts_of, home_of
    from salver.features.registry.replicating import Bandwidth, copy_versions, unlimited

    pace: Callable[[int], None] = unlimited
    if bandwidth:
        pace = Bandwidth(_rate(bandwidth))

    def row(version: "Copied") -> list[str]:
        return [f"{version.model}/{version.number}", str(version.bytes), version.problem or "copied"]

    home = where.home()
    versions = run(where, lambda registry, _: registry.ledger.read(rows.files))
    with under_way("copying"):
        target = artifacts_of(home_of(home.url, to))
        found = copy_versions(artifacts_of(home), target, versions, pace)
    listed(found, ("version", "bytes", "state"), row, json=json, none="every version is there")
    return int(any(version.problem for version in found))


def _rate(text: str) -> int:
    try:
        rate = byte_count(text)
    except ValueError:
        rate = 0
    if not 1 << 10 <= rate <= 1 << 36:
        raise InvalidInput(
            f"{text[:40]!r} is no rate from 1KB to 64GB",
            field="--bandwidth",
            fix="Write it as 50MB or 500KB.",
        )
    return rate


def sweep(
    *,
    hours: Annotated[
        float, Parameter(help="Only files unchanged for this many hours; below 24, no push may be running.")
    ] = 24.0,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Remove leftovers of killed pushes: all files unknown to this registry.

    Another registry with files in the same place would lose them.
    """
    removed = run(where, lambda registry, _: registry.sweep(hours * 3600))
    told = [f"removed {path}" for path in removed] or ["nothing was left behind"]
    result({"removed": removed}, "\n".join(told), json=json)


def remove(version: str, /, *, why: Why = "", where: RegistryOptions = USUAL, json: Json = False) -> None:
    """Remove the files of a version without alias and release; its row and history stay.

    Args:
        version: NAME/VERSION.
    """
    said = parse(version)
    if said.number is None:
        raise InvalidInput(f"{version} does not name a version", fix="Say: NAME/VERSION.")
    model, number = said.model, said.number
    run(where, lambda registry, actor: registry.remove(model, number, actor, why))
    result({"version": version, "done": "removed"}, f"{version} is removed", json=json)
