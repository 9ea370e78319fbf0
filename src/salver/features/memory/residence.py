"""Shell around ``policy`` that loads and unloads versions within the budget.

The lifecycle asks :meth:`Residence.absent` which versions are not to be in memory, and loads or unloads by
the answer; requests for an absent version wait in :meth:`Residence.demand`. Use from one event loop only.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from typing import Final, NamedTuple

from salver.features.memory import policy, pools
from salver.features.memory.ahead import Ahead
from salver.features.memory.devices import DevicePools
from salver.features.memory.estimates import Need
from salver.features.memory.growing import Growing
from salver.features.memory.learning import Learning
from salver.features.memory.ports import Lifecycle, Meter, Outlined, Usage, Use
from salver.features.memory.reserve import Reserve
from salver.features.memory.shares import Tenant, below_ceiling, taken
from salver.features.memory.snapshot import Admit, Demand, DevicePool, Evict, Refuse, Snapshot, Version
from salver.features.memory.states import Resident, Residents, members, stays
from salver.kernel.lifecycle.ports import Outline
from salver.words.artifacts import Manifest
from salver.words.errors import NotReady
from salver.words.events import BatchRan, Event, Served
from salver.words.messages import ModelId
from salver.words.sizes import told_bytes

_LOG: Final = logging.getLogger("salver.memory")
_MEASURED: Final = 2  # loads of a version: the first one also imports what stays
_DRIFT: Final = 0.01  # of what is used, before it is read exactly again
#: Why a version was unloaded, for people.
REASONS: Final[Mapping[str, str]] = {
    "room": "because another needs its memory",
    "idle": "because nobody asked it",
    "over": "because more memory is used than allowed",
    "ahead": "because another is likelier to be asked",
    "ceiling": "because it takes more than its memory.max_mb",
}


class _Wait(NamedTuple):
    """Requests that wait for one version, since a time."""

    future: "asyncio.Future[None]"
    since: float


class Residence:
    """Versions in memory, within a budget (:class:`salver.kernel.lifecycle.ports.Residence`).

    Args:
        budget: Bytes for the server and all its processes.
        clock: Monotonic seconds.
        meter: Measures memory, in a thread.
        refresh: Has the lifecycle ask again.

    Attributes:
        residents: Every wanted version.
        reserve: Part of the budget for what is not measured.
        tenants: Shares and ceilings of tenants.
        pools: Memory of devices.
        refusals: Demands for which there was no room.
        evictions: Unloaded versions, by reason.
        ahead: Forecasts, and what loads by them have saved and cost.
        used: Bytes that are used by everything.
    """

    def __init__(
        self,
        budget: int,
        lifecycle: Lifecycle,
        clock: Callable[[], float],
        meter: Meter,
        refresh: Callable[[], None],
    ) -> None:
        self.budget = budget
        self.reserve = Reserve()
        self.tenants: Mapping[str, Tenant] = {}
        self.pools = DevicePools()
        self._lifecycle = lifecycle
        self._clock = clock
        self._meter = meter
        self._refresh = refresh
        self.residents = Residents()
        self.refusals = self.used = 0
        self.evictions: Counter[str] = Counter()
        self._chosen: Sequence[Manifest] = ()
        self._replaced: dict[str, set[ModelId]] = {}  # versions that answer until a newer one does, by model
        self._parted: set[ModelId] = set()  # of these, those that have to go first
        self.ahead = Ahead()
        self._looks_ahead = False
        self._usage = Usage(Use(), {}, 0)
        self._exact = 0  # bytes that were used when they were read exactly
        self._waiting: dict[ModelId, _Wait] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._learning = Learning(self.residents)
        self._loading: set[Resident] = set()  # also those that are no longer wanted
        self._measuring = asyncio.Lock()
        self._moves = 0
        self._is_looking = False
        self._growing = Growing(self.residents, lifecycle)
        self._working = 0  # loads and unloads under way
        self._has_worked = False  # since the last measurement
        self._has_swapped = False  # since all memory was read exactly

    def __repr__(self) -> str:
        resident = sum(each.place == "resident" for each in self.residents.present.values())
        return f"<Residence {resident} of {len(self.residents.all)} versions, {told_bytes(self.budget)}>"

    @property
    def base(self) -> int:
        """Bytes of the server and of frameworks, without versions."""
        return self._learning.imported + self._usage.shared

    def now(self) -> float:
        """Return the time by the budget's clock."""
        return self._clock()

    async def begin(self) -> None:
        """Measure the server without models."""
        await self._look(is_exact=True, trims=True)
        self._learning.imported = self._usage.server.pss

    # -- what the lifecycle asks ---------------------------------------------------------------

    def absent(self, chosen: Sequence[Manifest]) -> Set[ModelId]:
        """Return the wanted versions that are not to be in memory now."""
        now = tuple(chosen)
        if now != self._chosen:  # most manifests are the same objects, and compared by their identity
            self._chosen = now
            self._take_up_all(now)
        self._decide()
        return self.residents.away() | self._parted

    def _take_up_all(self, chosen: Sequence[Manifest]) -> None:
        wanted = {manifest.id for manifest in chosen}
        up = {id for id, each in self.residents.present.items() if each.is_up}
        answering = {id.name for id in up}
        self._parted.clear()
        for id in up - wanted:
            self._replaced.setdefault(id.name, set()).add(id)
        for id in [id for id in self.residents.all if id not in wanted]:
            self.residents.drop(id)
            self._growing.forget(id)
            self._answer(id, None)  # whoever waits asks again, and may mean another version now
        needed = members(chosen)
        for manifest in chosen:
            why = stays(manifest)
            if manifest.id.name in needed:
                why = "another model is made of it"
            is_new = manifest.id not in self.residents.all
            self._take_up(manifest, why)
            if is_new and manifest.id.name in answering:
                self._wait(manifest.id)  # requests would go on to the earlier version, and never ask for it
        self.residents.newest = {manifest.id.name: manifest.id for manifest in reversed(chosen)}
        self.residents.order()

    def _take_up(self, manifest: Manifest, why: str) -> None:
        """Note a version and why it stays, and begin to load it if it has to be there."""
        known = self.residents.all.get(manifest.id)
        resident = known
        if resident is None or resident.manifest.fingerprint != manifest.fingerprint:
            resident = self._learning.record(manifest, self._clock())
            resident.devices = self.pools.expected(manifest, self._learning.last(manifest))
            self.residents.add(resident)
        resident.manifest = manifest
        resident.stays = why
        # Other files of a loaded version are loaded beside it.
        has_to = resident.stays or (known is not resident and known is not None and known.is_up)
        if has_to and resident.place == "absent":
            self._begin(resident)

    def outline(self, id: ModelId) -> Outline | None:
        """Return what was learned of a version when its files were loaded; None = they never were."""
        resident = self.residents.all.get(id)
        if resident is None:
            return None
        return resident.outline

    async def demand(self, id: ModelId) -> None:
        """Bring an absent version into memory, and return when it answers.

        Raises:
            NotReady: there is no room, or it did not load.
        """
        resident = self.residents.all.get(id)
        if resident is None:
            raise NotReady(f"model '{id.name}' is no longer served", field="model")
        if resident.place == "resident":
            if failure := await self._lifecycle.outcome(id):
                raise NotReady(f"model '{id.name}': {failure}", field="model")
            return
        is_first = id not in self._waiting
        future = self._wait(id)
        if is_first:
            self._advance()
        await asyncio.shield(future)

    def _wait(self, id: ModelId) -> "asyncio.Future[None]":
        """Return what ends when a version answers; from now on it is demanded."""
        if id not in self._waiting:
            future = asyncio.get_running_loop().create_future()
            future.add_done_callback(_seen)
            self._waiting[id] = _Wait(future, self._clock())
        return self._waiting[id].future

    def observe(self, events: Sequence[Event]) -> None:
        """Count the requests of each version."""
        wants_more = self._growing.ran(event for event in events if isinstance(event, BatchRan))
        if wants_more and not self._is_looking:
            self._is_looking = True
            self._spawn(self._look_at_growth())
        counts = Counter(ModelId(event.model, event.version) for event in events if isinstance(event, Served))
        now = self._clock()
        for id, count in counts.items():
            if resident := self.residents.all.get(id):
                resident.asked(count, now)
                self.ahead.asked(id.name)

    async def _look_at_growth(self) -> None:
        try:
            if self._growing.has_news:
                await self._look(is_exact=True, trims=True)
        finally:
            self._is_looking = False
        self._advance()

    async def tick(self) -> None:
        """Measure, and do what is due because time has passed."""
        has_news = self._growing.has_news
        await self._look(is_exact=has_news or self._has_swapped, trims=has_news)
        is_over = self.used > self.budget - self.reserve.bytes  # it may be what has been freed
        if is_over or abs(self.used - self._exact) > _DRIFT * self._exact:
            await self._look(is_exact=True, trims=is_over)
        self._end_excess()
        self.ahead.turn(self._clock())
        self._looks_ahead = True
        self._advance()
        self._looks_ahead = False
        self._bet_on_paper()

    def _end_excess(self) -> None:
        """Unload versions that have grown beyond what they may take."""
        for resident in list(self.residents.present.values()):
            taken = resident.need.resident + resident.grown + resident.leaked
            if resident.place == "resident" and 0 < resident.ceiling < taken:
                self._evict(resident, "ceiling")
                self._refresh()

    def _restarts(self, resident: Resident) -> bool:
        """Return whether the host processes of a version have died, and no other answers yet."""
        servable = self._lifecycle.servable(resident.manifest.id)
        return resident.is_hosted and servable is not None and not servable.processes

    # -- one step after another ----------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the state that the policy decides from."""
        now, found = self._clock(), self.residents
        waiting = [id for id in self._waiting if found.all[id].place == "absent"]
        versions = [
            each.version(now) for each in self._loading if found.all.get(each.manifest.id) is not each
        ]
        versions += [
            each.version(
                now,
                self._chance(each, now),
                is_held=self._lifecycle.leases(id) > 0,
                restarts=self._restarts(each),
            )
            for id, each in found.present.items()
        ]
        versions += [found.all[id].version(now) for id in waiting]
        demands = [Demand(id, self._waiting[id].since) for id in waiting]
        budget, hoped = self.budget - self.reserve.bytes, found.hoped.values()
        likely: Sequence[Version] = ()
        if self._looks_ahead and not waiting:
            likely = self._likely(now, is_on=True)
        return Snapshot(
            now,
            budget,
            self.base,
            self.used,
            versions,
            demands,
            hoped,
            self.tenants,
            likely,
            self._growing.wish,
            self.device_pools(),
        )

    def device_pools(self) -> dict[str, DevicePool]:
        """Return the memory of devices as it was measured last."""
        return self.pools.pools(self._usage)

    def attach(self, servable: Outlined) -> None:
        """Limit the runs of a version that has just been loaded, before it answers."""
        if resident := self.residents.all.get(servable.outline.manifest.id):
            self._growing.attach(resident, servable)

    def _allow_growth(self) -> None:
        """Let versions do larger runs while there is room, and nobody waits for it."""
        snapshot = self.snapshot()
        free = snapshot.budget - pools.committed(snapshot)
        if any(version.place != "resident" for version in snapshot.versions):
            free = 0

        def ceiling(resident: Resident) -> float:
            limits = [math.inf]
            if resident.ceiling:
                limits.append(resident.ceiling - resident.bytes)
            used = taken(pools.counted(snapshot))
            if (own := below_ceiling(resident.version(snapshot.now), used, snapshot.tenants)) is not None:
                limits.append(own)
            return min(limits)

        self._growing.allow(free, snapshot.budget, ceiling)

    def _chance(self, resident: Resident, now: float) -> float:
        """Return the chance that a version is asked soon; needed only while somebody looks ahead."""
        if not self._looks_ahead:
            return 0.0
        return self.ahead.forecast(resident.manifest.id.name, now, resident.reload_s).chance

    def _likely(self, now: float, *, is_on: bool) -> Sequence[Version]:
        """Return absent versions that may be asked soon, by sources that are switched on, or off."""
        found = []
        for name in self.ahead.likely(now):
            id = self.residents.newest.get(name)
            if id is None or (resident := self.residents.all[id]).place != "absent":
                continue
            forecast = self.ahead.forecast(name, now, resident.reload_s)
            if self.ahead.is_worth(name, forecast, is_on=is_on):
                found.append(resident.version(now, forecast.chance))
        return sorted(found, key=lambda version: -version.gain)

    def _bet_on_paper(self) -> None:
        """Note which loads ahead would pay by sources that are switched off."""
        now = self._clock()
        if versions := self._likely(now, is_on=False):
            for id, cost in policy.would_pay(self.snapshot(), versions):
                self._bet(self.residents.all[id], cost, is_paper=True)

    def _bet(self, resident: Resident, cost: float, *, is_paper: bool) -> None:
        name, priority = resident.manifest.id.name, resident.manifest.config.memory.priority
        self.ahead.begins(name, self._clock(), resident.reload_s, priority, cost, is_paper=is_paper)

    def _advance(self) -> None:
        """Do all steps that are due, and have the lifecycle ask again if there were any."""
        has_changed = self._decide()
        self._allow_growth()
        if self._growing.wish is not None:
            has_changed |= self._decide()
        if has_changed:
            self._refresh()

    def _decide(self) -> bool:
        """Do all steps that are due; return whether what is absent has changed."""
        has_changed = False
        if self._waiting:
            self._growing.retract()
        while (step := policy.next_step(self.snapshot())) is not None:
            match step:
                case Admit(id, ahead, is_tight):
                    resident = self.residents.all[id]
                    if ahead is not None:
                        self._bet(resident, ahead, is_paper=False)
                    if is_tight:
                        resident.rows = 1
                    measures = resident.loads < _MEASURED or self._growing.has_news
                    self._begin(resident, measures=measures)
                    has_changed = True
                case Evict(id, why, cost):
                    self.ahead.makes_room(cost)
                    self._evict(self.residents.all[id], why)
                    has_changed = True
                case Refuse():
                    self._refuse(step)
                    has_changed |= self._part(step.id.name)
        return has_changed

    def _part(self, name: str) -> bool:
        """Let the versions go that a newer one has no room beside; the next request loads that."""
        parted = self._replaced.pop(name, set())
        self._parted |= parted
        return bool(parted)

    def _begin(self, resident: Resident, *, measures: bool = False) -> None:
        """Begin to load a version.

        Args:
            measures: Measure first, so that memory freed since the last time does not hide its growth.
        """
        self.residents.move(resident, "loading", is_away=measures)
        self._moves += 1
        self._loading.add(resident)
        self._spawn(self._load(resident, self._moves, measures=measures))

    def _evict(self, resident: Resident, why: str) -> None:
        self.residents.move(resident, "leaving")
        resident.why = why
        resident.evictions += 1
        self.evictions[why] += 1
        self.ahead.ends(resident.manifest.id.name)
        self._moves += 1
        size = told_bytes(resident.bytes)
        _LOG.info("%s is unloaded, %s: %s", resident.manifest.id, REASONS[why], size)
        self._spawn(self._unload(resident))

    def _refuse(self, step: Refuse) -> None:
        resident = self.residents.all[step.id]
        self.refusals += 1
        need, tenants, pool = resident.need.peak, self.tenants, f"the server's {told_bytes(self.budget)}"
        if step.pool:
            need, tenants = resident.devices[step.pool].need, self.pools.tenants
            pool = f"the {told_bytes(self.device_pools()[step.pool].budget)} of {step.pool}"
        text = f"model '{step.id.name}' needs {told_bytes(need)} to load, and {told_bytes(step.short)} of "
        fix = "Give the server a larger --memory."
        kept = ", ".join(sorted(map(str, step.pinned)))
        if step.tenant:
            ceiling = told_bytes(tenants[step.tenant].ceiling)
            text += f"the {ceiling} of the tenant '{step.tenant}' are missing"
            fix = f"Give the tenant a larger max_mb{', or let go of ' * bool(kept)}{kept}."
        else:
            text += f"{pool} are missing even if all that may go were unloaded"
            if kept:
                fix = f"Give the server a larger --memory, or let go of what stays: {kept}."
        self._answer(step.id, NotReady(text, field="model", fix=fix))

    def _answer(self, id: ModelId, error: NotReady | None) -> None:
        """Answer all that wait for a version."""
        wait = self._waiting.pop(id, None)
        if wait is None or wait.future.done():
            return
        if error is None:
            wait.future.set_result(None)
        else:
            wait.future.set_exception(error)

    # -- loads and unloads ---------------------------------------------------------------------

    async def _load(self, resident: Resident, move: int, *, measures: bool) -> None:
        id, is_known = resident.manifest.id, resident.is_measured and not measures
        if measures:
            await self._look(is_exact=True, trims=not resident.is_hosted)
            self.residents.move(resident, "loading")
            self._refresh()
        self._working += 1
        self._has_worked = True
        began, before = self._clock(), self._usage.server
        if not is_known:
            self._meter.forget_peak()
        is_alone = all(each is resident or each.is_settled for each in self.residents.present.values())
        failure = await self._lifecycle.outcome(id)
        resident.reload_s = max(0.001, self._clock() - began)
        if not self._is_wanted(resident):
            await self._lifecycle.ended(id)
        if servable := self._lifecycle.servable(id):
            resident.is_hosted = bool(servable.processes)
        self._working -= 1
        self._has_swapped = True
        if is_known and self._is_wanted(resident) and not (failure or resident.ceiling):
            self._answer(id, None)
        is_hosted = resident.is_hosted
        await self._look(is_exact=is_hosted or not is_known, trims=not is_hosted)
        self._loading.discard(resident)
        if not self._is_wanted(resident):
            self._advance()
            return
        # Also one that failed: the lifecycle tells why, and may try again.
        self.residents.move(resident, "resident")
        resident.since = resident.last = self._clock()
        if failure:
            resident.need = Need(0, resident.need.peak)
            self._answer(id, NotReady(f"model '{id.name}': {failure}", field="model"))
        else:
            growth = None
            if (hosts := self._growing.hosts(id, self._usage)) is not None:
                growth = Need(hosts.own, hosts.own + hosts.peak - hosts.resident)
            elif is_alone and move == self._moves and not is_known:
                server = self._usage.server
                growth = Need(server.pss - before.pss, server.peak - before.resident)
            if servable is not None:
                resident.outline = servable.outline
            self._learning.loaded(resident, growth)
            self._loaded(resident)
        self._advance()

    def _is_wanted(self, resident: Resident) -> bool:
        """Return whether no other files have come, and the version is still served."""
        return self.residents.all.get(resident.manifest.id) is resident

    def _loaded(self, resident: Resident) -> None:
        """Note that a version answers, and tell those who wait for it."""
        manifest = resident.manifest
        resident.loads += 1
        self._replaced.pop(manifest.id.name, None)
        ceiling = resident.ceiling
        if not ceiling or resident.need.resident <= ceiling:
            self._answer(manifest.id, None)
            return
        size = told_bytes(resident.need.resident)
        text = f"model '{manifest.id.name}' takes {size}, more than its memory.max_mb"
        self._answer(manifest.id, NotReady(text, field="model"))
        self._evict(resident, "ceiling")
        self._refresh()

    async def _unload(self, resident: Resident) -> None:
        self._growing.forget(resident.manifest.id)
        self._working += 1
        self._has_worked = True
        await asyncio.sleep(0)  # the lifecycle begins
        await self._lifecycle.ended(resident.manifest.id)
        self._working -= 1
        self._has_swapped = True
        await self._look(is_exact=resident.is_hosted)  # the lifecycle has trimmed
        resident.grown = resident.leaked = 0
        resident.rows = resident.activations.rows
        self.residents.move(resident, "absent")
        if resident.stays and resident.why != "ceiling":  # it was pinned meanwhile
            self._begin(resident)
        self._advance()

    async def _look(self, *, is_exact: bool, trims: bool = False) -> None:
        """Measure memory; arguments as of the meter."""
        async with self._measuring:
            before = self._usage
            self._usage = await asyncio.to_thread(self._meter.read, is_exact=is_exact, trims=trims)
            self.used = self._usage.total
            if is_exact:
                self._exact, self._has_swapped = self.used, False
            self.pools.measure(self.residents.present.values(), self._lifecycle, self._usage)
            is_calm = not self._has_worked
            if is_calm:
                self.reserve.note(self._growing.surge(before.server, self._usage.server, is_trimmed=trims))
            for resident in self._growing.learn(before, self._usage, is_calm=is_calm):
                self._learning.measured(resident)
            self._has_worked = self._working > 0
            if not self._has_worked:
                self._meter.forget_peak()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what is under way; nobody is answered any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for id in list(self._waiting):
            self._answer(id, NotReady("the server is shutting down"))


def _seen(future: "asyncio.Future[None]") -> None:
    """Take note of an error, which nobody may be left to hear."""
    if not future.cancelled():
        future.exception()
