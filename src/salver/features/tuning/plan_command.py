"""``salver plan``: which models keep their latency promises together on this machine, and on which cores."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from salver.machine import usable_cores
from salver.terminal.options import Json, state_dir_of
from salver.terminal.output import line, record, remark, table
from salver.words.errors import InvalidInput, SalverError

if TYPE_CHECKING:
    from salver.backends.protocol import Backend
    from salver.features.planning.packing import Plan
    from salver.features.planning.rounds import Promise
    from salver.features.tuning.profile import Profile
    from salver.features.tuning.profiles import ProfileStore
    from salver.words.artifacts import Manifest

_COLUMNS = ("model", "rows/s", "cores", "runs", "rows", "run ms", "answer ms", "promise ms", "in time")
_ARRIVALS = 2000  # simulated requests of each model
_OLD_S = 30 * 86400.0
_MEASURE_S = 60.0


def plan(
    path: Path,
    /,
    *,
    rate: Annotated[
        tuple[str, ...],
        Parameter(
            help="NAME=ROWS_PER_SECOND, instead of objective.rate of its salver.toml; may be repeated."
        ),
    ] = (),
    cores: Annotated[int, Parameter(help="Cores of the machine; 0 = those that this process may use.")] = 0,
    measure: Annotated[
        bool, Parameter(help="First measure the models that were never measured, as salver tune does.")
    ] = False,
    state_dir: Annotated[str | None, Parameter(help="Folder of the profiles, as in salver serve.")] = None,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Show which models keep their latency promises together, on which cores, and who collides with whom.

    Models promise by objective.latency_p99 (or deadline) and objective.rate of their salver.toml. Run times
    are those that salver tune or a server has measured on this machine. Ends with status 1 if a promise
    cannot be kept or was not measured.

    Args:
        path: A folder of models, or of one model.
    """
    # Imported here because backends and numpy would slow down --help.
    from salver.features.planning.packing import plan as place
    from salver.features.planning.promises import MOST_MODELS, is_promise
    from salver.features.tuning.profiles import ProfileStore

    found = _find(path)
    rates = _rates(rate, found)
    usable = usable_cores()
    cores = cores or usable
    if not 1 <= cores <= usable:
        raise InvalidInput(
            f"--cores must be from 1 to {usable}: laws hold for the machine that measured them"
        )
    promising = [manifest for manifest in found if is_promise(manifest.config)]
    if not promising:
        raise InvalidInput(
            f"no model in {path} promises anything",
            fix='Say in its salver.toml: objective = { latency_p99 = "50ms", rate = 100 }',
        )
    if len(promising) > MOST_MODELS:
        raise InvalidInput(
            f"more than {MOST_MODELS} models with an objective", fix="Plan for fewer at a time."
        )
    store = ProfileStore(state_dir_of(state_dir))
    promises, unmeasured = _promises(promising, rates, store, measure=measure, trust_pickle=trust_pickle)
    planned = place(promises, cores)
    kept = [promise for promise in promises if promise.name not in {each.name for each in planned.refused}]
    margin = 1.0
    shares: dict[str, float] = {}
    if kept:
        planned, margin, shares = _rehearse(planned, kept, cores)
    told = _told(planned, promises, shares)
    summary = {
        "cores": cores,
        "margin": margin,
        "models": told,
        "refused": [
            {"name": each.name, "collides": list(each.collides), "why": str(each)} for each in planned.refused
        ],
        "unmeasured": unmeasured,
        "without_promise": [each.id.name for each in found if each not in promising],
    }
    if json:
        record(summary)
    else:
        _show(summary, cores)
    return 1 if planned.refused or unmeasured else 0


def _find(path: Path) -> "list[Manifest]":
    """Return the newest version of every model at a path that could be tuned."""
    from salver.backends.discovery import backends, recogniser
    from salver.kernel.repository import Repository
    from salver.parts import formats

    newest: dict[str, Manifest] = {}
    for manifest in Repository((path,), formats(recogniser(backends()))).scan(0.0):
        known = newest.get(manifest.id.name)
        if known is None or int(manifest.id.version) > int(known.id.version):
            newest[manifest.id.name] = manifest
    if not newest:
        raise InvalidInput(
            f"no model that any installed backend recognises in {path}", fix=f"Try: salver doctor {path}"
        )
    return [
        manifest
        for manifest in newest.values()
        if not (manifest.problem or manifest.config.ensemble.steps or manifest.config.steps.vocabulary)
    ]


def _rates(given: Sequence[str], found: "Sequence[Manifest]") -> dict[str, float]:
    """Return the rates of the command line, by model."""
    names = {manifest.id.name for manifest in found}
    rates = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            rates[name] = float(number)
        except ValueError:
            rates[name] = -1.0
        if name not in names or not 0 <= rates[name] <= 1e9:
            raise InvalidInput(
                f"--rate {text!r}: write NAME=ROWS_PER_SECOND", fix=f"Models: {', '.join(sorted(names))}"
            )
    return rates


def _promises(
    promising: "Sequence[Manifest]",
    rates: Mapping[str, float],
    store: "ProfileStore",
    *,
    measure: bool,
    trust_pickle: bool,
) -> "tuple[list[Promise], list[str]]":
    """Return the promises of the models with measured laws, and the names of the others."""
    from salver.backends.discovery import backends

    known = backends()
    promises, unmeasured = [], []
    for manifest in promising:
        name, backend = manifest.id.name, known.get(manifest.backend)
        profile = None
        if backend is not None:
            profile = _profile(manifest, backend, store, measure=measure, trust_pickle=trust_pickle)
        if profile is None:
            unmeasured.append(name)
            continue
        if time.time() - profile.when > _OLD_S:
            days = (time.time() - profile.when) / 86400
            remark(f"{name} was measured {days:.0f} days ago; salver tune renews it")
        promises.append(_promise(manifest, profile, rates.get(name)))
    return promises, unmeasured


def _profile(
    manifest: "Manifest", backend: "Backend", store: "ProfileStore", *, measure: bool, trust_pickle: bool
) -> "Profile | None":
    """Return the stored measurements of a model; None = there are none, or of another machine."""
    from salver.features.tuning.profiles import machine
    from salver.features.tuning.progress import SearchProgress
    from salver.features.tuning.sweep import Sweep

    found = store.read(store.key(manifest), machine(backend, usable_cores()))
    if found is not None and any(not placed.size for placed in found.laws):
        return found
    if not measure:
        return None
    remark(f"{manifest.id.name}: measuring")
    try:
        with SearchProgress("", quiet=True) as watch:
            sweep = Sweep(manifest, backend, watch, _MEASURE_S, trust_pickle)
            _, found = asyncio.run(sweep.run())
    except SalverError as error:
        remark(f"{manifest.id.name} could not be measured: {error}")
        return None
    store.write(found)
    return found


def _promise(manifest: "Manifest", profile: "Profile", rate: float | None) -> "Promise":
    """Return a promise with the law of every placement that the configuration leaves open.

    Laws are measured with all instances busy, so they hold for fewer instances as well.
    """
    from salver.features.planning.promises import promise_of

    config = manifest.config
    laws = [
        (count, placed.threads, placed.law)
        for placed in profile.laws
        if not placed.size
        for count in range(1, placed.instances + 1)
        if count in (config.instances.count or count, placed.instances)
    ]
    promise = promise_of(manifest.id.name, config, laws)
    if rate is not None:
        promise = msgspec.structs.replace(promise, rate=rate)
    return promise


def _rehearse(
    planned: "Plan", kept: "Sequence[Promise]", cores: int
) -> "tuple[Plan, float, dict[str, float]]":
    """Return the plan with the margin that random arrivals need, and the shares of answers in time."""
    import numpy as np

    from salver.features.planning.rehearsal import with_margin

    def gaps(number: int) -> list[float]:
        drawn: list[float] = np.random.default_rng(number).exponential(1.0, _ARRIVALS).tolist()
        return drawn

    found = with_margin(kept, cores, gaps)
    assert found is not None, "the kept models have a plan"
    better, margin, shares = found
    return msgspec.structs.replace(planned, groups=better.groups), margin, shares


def _told(
    planned: "Plan", promises: "Sequence[Promise]", shares: Mapping[str, float]
) -> list[dict[str, Any]]:
    rates = {promise.name: promise.rate for promise in promises}
    return [
        {
            "name": turn.name,
            "rate": rates[turn.name],
            "cores": list(group.cores),
            "instances": turn.instances,
            "threads": turn.threads,
            "rows": -(-turn.rows // turn.instances),
            "seconds": turn.seconds,
            "latency_s": turn.latency_s,
            "limit_s": turn.limit_s,
            "in_time": shares.get(turn.name),
        }
        for group in planned.groups
        for turn in group.round.turns
    ]


def _show(summary: Mapping[str, Any], cores: int) -> None:
    from salver.features.planning.rehearsal import WANTED

    rows = [_row(each) for each in summary["models"]]
    if rows:
        table(_COLUMNS, rows)
    line()
    kept, refused, unmeasured = len(rows), summary["refused"], summary["unmeasured"]
    line(f"{kept} of {kept + len(refused) + len(unmeasured)} promises are kept on {cores} cores")
    if summary["margin"] > 1:
        line(f"planned for {summary['margin']:g} times the rates, since requests do not come evenly")
    late = [each["name"] for each in summary["models"] if (each["in_time"] or 1.0) < WANTED]
    if late:
        line(
            f"kept for even arrivals only, with random ones less than {WANTED:.0%} in time: {', '.join(late)}"
        )
    for each in refused:
        line(f"not kept: {each['why']}")
    for name in unmeasured:
        line(f"not measured: {name}; salver plan --measure does it, on an idle machine")
    for each in summary["models"]:
        runs = f"count = {each['instances']}, threads = {each['threads']}"
        most = f"max_rows = {each['rows']}"
        line(f"{each['name']}/salver.toml: instances = {{ {runs} }}, batching = {{ {most} }}")


def _row(each: Mapping[str, Any]) -> list[str]:
    share = "-"
    if each["in_time"] is not None:
        share = f"{each['in_time']:.1%}"
    return [
        each["name"],
        f"{each['rate']:g}",
        ",".join(map(str, each["cores"])),
        f"{each['instances']} × {each['threads']}",
        str(each["rows"]),
        f"{each['seconds'] * 1e3:.3g}",
        f"{each['latency_s'] * 1e3:.3g}",
        f"{each['limit_s'] * 1e3:.3g}",
        share,
    ]
