"""``salver rollout``: start, watch and control releases.

Commands write to the registry, and a server acts within a second; so they work on any machine that reaches
the registry, whether or not a server is running.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter

from salver.features.registry.command_options import USUAL, RegistryOptions, Why, new_id, numbers_of, run
from salver.features.releases.command_watch import counted, servers_of, show, until, watched
from salver.terminal.options import DEFAULT_URL, Json, Url, token
from salver.terminal.output import line, moment, prose, record, remark, width_of_terminal

if TYPE_CHECKING:
    from salver.features.registry.records import Actor
    from salver.features.registry.registry import ModelRegistry
    from salver.features.releases.judge.outlook import Forecast
    from salver.features.releases.judge.policy import Policy
    from salver.features.releases.judge.record import Release, What
    from salver.features.releases.judge.replay import Entry
    from salver.features.releases.release_store import ReleaseStore

rollout = App(
    name="rollout",
    help="Release a new version in stages, judged by its results.",
    default_parameter=Parameter(negative=()),
)
_TRIES, _PAUSE_SECONDS = 75, 0.2
_SOON = 10  # attempts before a message is shown
Timeout = Annotated[float, Parameter(help="Maximum seconds to wait; 0 = no limit.")]
_SAMPLE_SECONDS = 3.0
T = TypeVar("T")


@rollout.command
def start(
    model: str,
    version: str,
    /,
    *,
    stable: Annotated[str, Parameter(help="Version to replace (default: that of the alias).")] = "",
    alias: Annotated[str, Parameter(help="Alias to move on promotion (default: the model's).")] = "",
    policy: Annotated[
        str, Parameter(help="TOML or JSON file of a policy (default: the model's, else the standard one).")
    ] = "",
    rate: Annotated[
        float, Parameter(help="Expected requests per second (default: as measured by the server).")
    ] = 0,
    event: Annotated[
        tuple[str, ...],
        Parameter(
            help="METRIC=SHARE of requests in which it happens now; of a mean, how many times it the units' "
            "standard deviation is."
        ),
    ] = (),
    users: Annotated[
        int, Parameter(help="Expected number of users who return (default: most requests are of new ones).")
    ] = 0,
    processes: Annotated[int, Parameter(help="Processes that serve the stable version.")] = 1,
    dry_run: Annotated[bool, Parameter(help="Only report what the traffic can detect.")] = False,
    wait: Annotated[bool, Parameter(name=("--wait", "-w"), help="Show it until it ends.")] = False,
    timeout: Timeout = 0,
    url: Url = DEFAULT_URL,
    where: RegistryOptions = USUAL,
    why: Why = "",
    json: Json = False,
) -> int:
    """Propose a version after reporting what its traffic can detect; it starts when a server has loaded it.

    With --wait the exit status is that of status --watch.

    Args:
        model: The model's name, or NAME@ALIAS.
        version: The new version.
    """

    async def work(registry: "ModelRegistry", actor: "Actor") -> int:
        import msgspec

        from salver.features.releases.judge.explain import foretell
        from salver.features.releases.judge.outlook import outlook
        from salver.features.releases.proposals import Proposal, proposal
        from salver.features.releases.release_store import ReleaseStore

        name, _, meant = model.partition("@")
        said = Proposal(name, version, stable, alias or meant, policy_of(policy))
        release = await proposal(registry, said, new_id(), time.time())
        release = msgspec.structs.replace(release, by=actor.name, why=why)
        store = ReleaseStore(registry.ledger)
        if not dry_run:
            await store.check(release, actor)  # fails before a server is asked
        if not release.policy.immediate:
            forecast = await _foreseen(release, rate, event, url)
            if isinstance(forecast, str):
                remark(f"what this traffic can show is not known, as {forecast}: say --rate")
            else:
                forecast = msgspec.structs.replace(forecast, users=users, processes=processes)
                seen = outlook(release.policy, forecast)
                prose(foretell(release.policy, seen), beside=True)
                if dry_run and json:
                    record(seen)
        if dry_run:
            return 0
        await store.propose(release, actor)
        if wait:
            return await watched(store, release.id, "", seconds=timeout, json=json)
        await show(store, [release], json=json)
        return 0

    return run(where, work, makes=True)


@rollout.command
def policy(
    model: str,
    file: str = "",
    /,
    *,
    immediate: Annotated[bool, Parameter(help="Move aliases immediately, without a release.")] = False,
    usual: Annotated[bool, Parameter(help="Start a release with the standard policy.")] = False,
    why: Why = "",
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> None:
    """Show or set what a move of a model's alias starts.

    Args:
        model: The model's name.
        file: TOML or JSON file with a policy.
    """
    from salver.words.errors import InvalidInput

    if bool(file) + immediate + usual > 1:
        raise InvalidInput("a model has one policy", fix="Give a file, --immediate, or --usual.")

    async def work(registry: "ModelRegistry", actor: "Actor") -> Any:
        import msgspec

        from salver.features.releases.judge.policy import Policy
        from salver.features.releases.proposals import check_outputs

        said = policy_of(file) or (Policy() if usual else None)
        if said is not None:
            for newest in await registry.versions(model, most=1):
                check_outputs(said, newest)
            await registry.set_policy(model, msgspec.json.decode(said.to_json()), actor, why)
        elif immediate:
            await registry.set_policy(model, "immediate", actor, why)
        return (await registry.model(model)).policy

    found = run(where, work)
    if json:
        record({"model": model, "policy": found})
    else:
        line(_indented(found))


@rollout.command
def status(
    release: str = "",
    /,
    *,
    model: Annotated[str, Parameter(help="Only this model.")] = "",
    watch: Annotated[bool, Parameter(name=("--watch", "-w"), help="Show it until it ends.")] = False,
    timeout: Timeout = 0,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Show the status of releases.

    With --watch and one release the exit status is 0 if it was promoted and 3 if it was rolled back; after
    --timeout it is 4 if it is still running, and 5 if it is held or paused and waits for a person.

    Args:
        release: Id of a release (default: all).
    """

    async def tell(store: "ReleaseStore") -> int:
        if watch:
            return await watched(store, release, model, seconds=timeout, json=json)
        found = [await store.get(release)] if release else await store.listed(model)
        await show(store, found, json=json)
        return 0

    return run(where, _with_store(tell))


@rollout.command
def pause(release: str, /, *, where: RegistryOptions = USUAL, why: Why = "", json: Json = False) -> int:
    """Pause a release: keep its share of the traffic; harm is still rolled back.

    Args:
        release: Id of the release.
    """
    return _wish(release, "pause", where, why, json=json)


@rollout.command
def resume(release: str, /, *, where: RegistryOptions = USUAL, why: Why = "", json: Json = False) -> int:
    """Resume a paused release.

    Args:
        release: Id of the release.
    """
    return _wish(release, "resume", where, why, json=json)


@rollout.command
def promote(release: str, /, *, where: RegistryOptions = USUAL, why: Why = "", json: Json = False) -> int:
    """Promote a release to its next stage regardless of evidence; also approves a step that needs approval.

    Args:
        release: Id of the release.
    """
    return _wish(release, "promote", where, why, json=json)


@rollout.command
def abort(release: str, /, *, where: RegistryOptions = USUAL, why: Why = "", json: Json = False) -> int:
    """Abort a release: return all traffic to the stable version immediately, from any state.

    Args:
        release: Id of the release.
    """
    return _wish(release, "abort", where, why, json=json)


@rollout.command
def explain(
    release: str,
    /,
    *,
    all: Annotated[bool, Parameter(help="Every decision that changed something, not only the last.")] = False,
    where: RegistryOptions = USUAL,
    json: Json = False,
) -> int:
    """Explain the last decision with its evidence.

    Args:
        release: Id of the release.
    """

    async def tell(store: "ReleaseStore") -> int:
        from salver.features.releases.carriers import told as carriage
        from salver.features.releases.judge.explain import explain as told
        from salver.features.releases.judge.explain import unseen

        found = await store.get(release)
        looks = await store.looks(release)
        entries = [look.entry for look in looks]
        chosen = list(_turns(entries)) if all else entries[-1:]
        if json:
            for entry in chosen:
                record(entry.verdict)
            return 0
        prose(
            f"{found.id}: {found.model} {found.stable} → {found.canary} is {found.state.value}: "
            f"{found.reason}"
        )
        for servers in (await servers_of(store, [found])).values():
            prose(counted(servers))
        for words in until(found, entries[-1] if entries else None):
            prose(words)
        if not entries:
            prose("nothing was counted yet" + (found.waits_for and f"; {found.waits_for}"))
        for entry in chosen:
            line()
            text = told(found.policy, entry.verdict, width_of_terminal())
            prose(f"{moment(entry.verdict.at)}  {text}")
        for carrier in await store.carriers(found):
            for words in carriage(carrier, moment):
                prose(words)
        for words in unseen(found.policy, [entry.bucket for entry in entries]):
            prose(words)
        return 0

    return run(where, _with_store(tell))


@rollout.command
def route(
    release: str,
    /,
    *,
    gateway: Annotated[str, Parameter(help="Parent gateway; NAMESPACE/NAME for another namespace.")],
    stable: Annotated[str, Parameter(help="Service of the stable version.")],
    canary: Annotated[str, Parameter(help="Service of the new version.")],
    name: Annotated[str, Parameter(help="Name of the route (default: the model's).")] = "",
    namespace: Annotated[
        str, Parameter(help="Namespace of the route (default: that in which it is applied).")
    ] = "",
    service_port: Annotated[int, Parameter(help="Port of both services.")] = 8000,
    hostname: Annotated[
        tuple[str, ...], Parameter(help="Host name of the route, repeatable (default: all of the gateway's).")
    ] = (),
    path: Annotated[str, Parameter(help="Path prefix of the route.")] = "/",
    apply: Annotated[
        bool, Parameter(help="Apply it to a cluster, instead of printing it; needs salver[kubernetes].")
    ] = False,
    follow: Annotated[
        bool, Parameter(help="Apply it whenever the weights change, until the release has ended.")
    ] = False,
    kubeconfig: Annotated[
        str, Parameter(help="File that names the cluster (default: that of kubectl, else the pod's account).")
    ] = "",
    context: Annotated[str, Parameter(help="Context of the kubeconfig (default: its current one).")] = "",
    force_conflicts: Annotated[
        bool, Parameter(help="Take fields of the route over that others have set.")
    ] = False,
    where: RegistryOptions = USUAL,
) -> int:
    """Print or apply a release's weights as an HTTPRoute of Kubernetes' Gateway API.

    Args:
        release: Id of the release.
    """

    async def tell(store: "ReleaseStore") -> int:
        from salver.features.releases import command_route
        from salver.features.releases.experiments.gateway import RoutePlace

        found = await store.get(release)
        space, _, parent = gateway.rpartition("/")
        called = name or found.model.lower()
        place = RoutePlace(
            called, parent, stable, canary, service_port, namespace, space, tuple(hostname), path
        )
        if apply or follow:
            from salver.features.releases.experiments.gateway_client import Cluster

            cluster = await asyncio.to_thread(Cluster, kubeconfig, context)
            return await command_route.apply(
                store, release, place, cluster, follow=follow, force=force_conflicts
            )
        line(_indented(command_route.route_of(found, place)))
        return 0

    return run(where, _with_store(tell))


@rollout.command
def replay(release: str, /, *, where: RegistryOptions = USUAL, json: Json = False) -> int:
    """Recompute every decision from the recorded counts and report differences, bit by bit.

    Args:
        release: Id of the release.
    """

    async def check(store: "ReleaseStore") -> int:
        from salver.features.releases.judge.replay import first_difference

        found = await store.get(release)
        entries = [look.entry for look in await store.looks(release)]
        step = first_difference(found.policy, entries)
        if json:
            record(
                {"looks": len(entries), "same": step is None, "differs": step.differences() if step else []}
            )
        elif step is None:
            line(f"{len(entries)} looks give the same verdicts, bit by bit")
        else:
            line(f"the look of {moment(step.entry.verdict.at)} differs: {'; '.join(step.differences())}")
        return 0 if step is None else 1

    return run(where, _with_store(check))


def _wish(release: str, what: "What", where: RegistryOptions, why: str, *, json: bool) -> int:
    async def ask(registry: "ModelRegistry", actor: "Actor") -> int:
        from salver.features.releases.release_store import ReleaseStore
        from salver.words.errors import Conflict

        store = ReleaseStore(registry.ledger)
        wish = await store.wish(release, what, actor, why, time.time())
        answer = None
        for number in range(_TRIES):
            answer = await store.answer(wish)
            if answer is not None:
                break
            if number == _SOON:
                remark("it is written down, and a server usually sees to it within a second; waiting for one")
            await asyncio.sleep(_PAUSE_SECONDS)
        if answer is None:
            remark("no server has seen to it yet: is one running with this registry?")
        elif answer:
            raise Conflict(answer)
        await show(store, [await store.get(release)], json=json)
        return 0

    return run(where, ask)


def _with_store(
    work: "Callable[[ReleaseStore], Awaitable[int]]",
) -> "Callable[[ModelRegistry, Actor], Awaitable[int]]":
    async def with_store(registry: "ModelRegistry", actor: "Actor") -> int:
        from salver.features.releases.release_store import ReleaseStore

        return await work(ReleaseStore(registry.ledger))

    return with_store


def policy_of(path: str) -> "Policy | None":
    """Read a policy from a file; return None without one."""
    if not path:
        return None
    import tomllib

    import msgspec

    from salver.features.releases.judge.policy import Policy
    from salver.words.errors import InvalidInput

    try:
        text = Path(path).read_bytes()
        if path.endswith(".toml"):
            text = msgspec.json.encode(tomllib.loads(text.decode()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(
            f"{path} is not a valid policy: {error}", fix="Give a TOML or JSON file."
        ) from error
    try:
        return Policy.from_json(text)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}", field=error.field, fix=error.fix) from error


async def _foreseen(release: "Release", rate: float, events: Sequence[str], url: str) -> "Forecast | str":
    """Return the given forecast, or the rates that a server measured, or the reason why there is none."""
    from salver.client import Client
    from salver.features.releases.judge.outlook import Forecast
    from salver.words.errors import InvalidInput, NotFound, SalverError

    try:
        rates = numbers_of(events, "--event")
    except InvalidInput as error:
        raise InvalidInput(error.message, fix="Write METRIC=SHARE, as errors=0.005.") from None
    names = [metric.name for metric in release.policy.metrics]
    if unknown := [name for name in rates if name not in names]:
        raise InvalidInput(
            f"--event: the policy has no metric '{unknown[0]}'", fix=f"It has: {', '.join(names)}."
        )
    means = [metric.name for metric in release.policy.metrics if metric.kind == "mean"]
    spreads = {name: rates.pop(name) for name in means if name in rates}
    if rate:
        try:
            return Forecast(rate, rates, spreads)
        except InvalidInput as error:
            _, _, name = error.field.partition(".")
            flag = f"--event {name}" if name else "--rate"
            raise InvalidInput(error.message, field=flag, fix=error.fix) from error
    try:
        async with Client(url, timeout=5, token=token()) as client:
            before = _served(await client.statistics(release.model))
            await asyncio.sleep(_SAMPLE_SECONDS)
            after = _served(await client.statistics(release.model))
    except NotFound:
        return f"the server at {url} has no model '{release.model}' (--url names another)"
    except SalverError as error:
        return f"no server tells ({error.message}; --url names another)"
    good, bad = (late - soon for soon, late in zip(before, after, strict=True))
    if not good + bad:
        return f"'{release.model}' got no requests for {_SAMPLE_SECONDS:g} seconds"
    total = sum(after)
    return Forecast((good + bad) / _SAMPLE_SECONDS, {"errors": after[1] / total, **rates}, spreads)


def _served(statistics: dict[str, Any]) -> tuple[int, int]:
    """Return the number of successful and failed requests over all versions."""
    counts = [entry["inference_stats"] for entry in statistics["model_stats"]]
    return sum(c["success"]["count"] for c in counts), sum(c["fail"]["count"] for c in counts)


def _indented(value: Any) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _turns(entries: "Sequence[Entry]") -> "Sequence[Entry]":
    """Return the looks at which the decision changed."""
    found: list[Entry] = []
    for entry in entries:
        before = found[-1].verdict if found else None
        verdict = entry.verdict
        if before is None or (before.decision, before.stage) != (verdict.decision, verdict.stage):
            found.append(entry)
    return found
