"""``salver registry verify``, ``sweep`` and ``remove``: maintenance."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from salver.features.registry.command_options import USUAL, RegistryOptions, Why, run
from salver.features.registry.names import parse
from salver.terminal.options import Json, state_dir_of
from salver.terminal.output import listed, result
from salver.words.errors import InvalidInput

if TYPE_CHECKING:
    from salver.features.registry.inspecting import Inspector
    from salver.features.registry.records import Fault
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
