"""Keys by their hashes, and the decision about a request."""

import functools
from collections.abc import Callable, Hashable
from typing import Final, Literal, NamedTuple, Protocol

from salver.features.access.charge import RunCharge
from salver.features.access.credentials import credentials
from salver.features.access.key_format import digest_of
from salver.features.access.limit_book import NONE, DeclaredLimits, LimitBook
from salver.features.access.limits import Limits, refusal
from salver.features.access.ports import Account, Accounts, Meter
from salver.features.access.refusals import Refusals
from salver.features.access.run_plan import RunPlan
from salver.features.access.run_usage import RunUsage
from salver.features.access.scopes import Scopes
from salver.kernel.serving.standing import ANY_TENANT, from_headers
from salver.transport.access_check import Caller, RawHeaders
from salver.transport.exchange import Exchange, Prompt
from salver.transport.restrict import Right
from salver.words.errors import InvalidInput, QuotaUnsettled, RateLimited, SalverError, Unidentified
from salver.words.messages import ANYBODY, Grant, Standing

_FOREVER: Final = float("inf")
#: Standing of the server's token.
ANY: Final = Standing(ANY_TENANT, 1, "urgent")
#: Most nanoseconds for which a refusal is told again; the wait that it names is older by that.
_TOLD_NS: Final = 5_000_000
_HOW: Final = "Send it as authorization: Bearer KEY, or as x-api-key."


class Key:
    """A key that a server accepts. All that refer to it see at once that it is revoked.

    Args:
        id: Id of the key, which rotation keeps.
        name: Name of the caller; empty = the server's token, whose callers name themselves.
        until: Unix seconds at which it expires.
        limits: Its limits, which it shares with the key that it replaces; None = none.
        granted: Best standing of its requests; None = any.

    Attributes:
        is_alive: It is not revoked, nor replaced by one of other rights.
        is_used: It was used since :meth:`KeyTable.last_uses` was last asked, which knows the time.
        last_use: Unix seconds of its last request to this server before that; 0 = there was none.
        account: What it uses; None = nothing is counted.
    """

    __slots__ = (
        *("account", "granted", "id", "is_alive", "is_used", "last_use"),
        *("limits", "name", "scopes", "until"),
    )

    def __init__(
        self,
        id: str,
        name: str,
        scopes: Scopes,
        until: float = _FOREVER,
        limits: Limits | None = None,
        granted: Standing | None = ANYBODY,
    ) -> None:
        self.id = id
        self.name = name
        self.scopes = scopes
        self.until = until
        self.limits = limits
        self.granted = granted
        self.is_alive = True
        self.is_used = False
        self.last_use = 0.0
        self.account: Account | None = None

    def __repr__(self) -> str:
        return f"<Key {self.id} {self.scopes!r}>"

    def is_like(self, other: "Key") -> bool:
        """Return whether another key has the same id, rights, limits, standing and end."""
        mine = (self.id, self.name, self.scopes.texts, self.until, self.granted)
        is_like = mine == (other.id, other.name, other.scopes.texts, other.until, other.granted)
        return is_like and self.has_limits_of(other)

    def has_limits_of(self, other: "Key") -> bool:
        """Return whether another key has the same limits."""
        if self.limits is None or other.limits is None:
            return self.limits is other.limits
        return self.limits.rules == other.limits.rules


class Identities(Protocol):
    """Callers whom others vouch for (features/identity)."""

    def by_token(self, digest: bytes, token: bytes) -> Key | None:
        """Return the caller of a token, with its digest; None = it is not valid.

        Raises:
            RateLimited: it cannot be told, as too many tokens were wrong just now.
        """
        ...

    def by_peer(self, headers: RawHeaders) -> list[Key]:
        """Return the callers that the connection or a trusted proxy names."""
        ...


class KeyChange(NamedTuple):
    """Change of the keys of a server."""

    what: Literal["added", "changed", "revoked"]
    id: str
    name: str


class KeyGrant:
    """A right of a key for models, with its limits and standing.

    Args:
        table: The table that has the key.
        standing: See :class:`~salver.words.messages.Grant`.
        checks: The model's name is left to be checked.
        headers: Headers of the request.
    """

    __slots__ = (
        *("_checks", "_headers", "_key", "_own", "_plan", "_quotas", "_right", "_scope", "_table", "_told"),
        *("account", "caller", "granted", "is_stale", "standing", "was_refused"),
    )

    def __init__(
        self,
        table: "KeyTable",
        key: Key,
        right: Right,
        standing: Standing,
        *,
        checks: bool,
        headers: RawHeaders = (),
    ) -> None:
        self._headers = headers
        self._table = table
        self._key = key
        self._right: Right = right
        self._scope = key.scopes.of(right)
        #: Its limits if there are no others, and its quotas.
        self._own: tuple[Limits, ...] = ()
        if key.limits is not None and (key.limits.cells or key.limits.at_once):
            self._own = (key.limits,)
        self._quotas = None if key.account is None else key.account.quotas
        self.account = key.account
        self.granted = key.granted
        self.standing = standing
        self.caller: Hashable = (key.id, standing.tenant)
        self._checks = checks
        self._plan: RunPlan | None = None
        self.was_refused = self.is_stale = False
        #: The last refusal of all its requests, and monotonic nanoseconds until which it is told again.
        self._told: tuple[RateLimited | None, int] = None, 0

    @property
    def checks(self) -> bool:
        """See :class:`~salver.words.messages.Grant`."""
        return self.account is not None or self._checks or bool(self._own) or not self._table.book.is_empty

    def allows(self, model: str) -> bool:
        """See :class:`~salver.words.messages.Grant`."""
        return self._scope.is_allowed(model)

    def check(self, model: str) -> None:
        """See :class:`~salver.words.messages.Grant`. Raises OutOfScope."""
        if not self._scope.is_allowed(model):
            raise self.recorded(self._scope.refusal(model), model)

    def refusal(self, model: str, *, is_trial: bool = False) -> SalverError | None:
        """See :class:`~salver.words.messages.Grant`."""
        refused: SalverError | None = None
        if not self._scope.is_allowed(model):
            refused = self._scope.refusal(model)
        elif self._own or self._quotas is not None or not self._table.book.is_empty:
            refused = self._over(model, is_trial=is_trial)
            if isinstance(refused, QuotaUnsettled):
                return refused
            self.was_refused = refused is not None and not is_trial
        if refused is None or is_trial:
            return refused
        return self.recorded(refused, model)

    def _over(self, model: str, *, is_trial: bool) -> RateLimited | None:
        """Return why a request is refused by limits or quotas now; None = it is accepted."""
        limits = self.limits(model, self.standing.tenant)
        refused = refusal(limits, self._table.ticks()) if limits else None
        if refused is None and self._quotas is not None:
            return self._quotas.refusal(is_trial=is_trial)
        return refused

    def still_refused(self) -> SalverError | None:
        """See :class:`~salver.words.messages.Grant`."""
        told, until = self._told
        if told is not None and self._table.ticks() < until and self._key.is_alive:
            if told.repeated is not None:
                told.repeated(1)
            return told
        refused = None
        if self._key.is_alive:
            refused = self._over("", is_trial=True)
        self._told = refused, 0
        if refused is None:
            self.was_refused = False
            return None
        if (sure := _sure_ns(refused)) > 0:
            self._told = refused, self._table.ticks() + min(sure, _TOLD_NS)
        return self.recorded(refused, "")

    def ended(self, model: str) -> SalverError | None:
        """Return why an answer that has begun may not go on; None = it may."""
        key, table = self._key, self._table
        if key.is_alive and key.until > table.now():
            return None
        try:  # another key of the same caller may have taken its place
            table.admit(self._headers, self._right, model, is_later=False, is_trial=True)
        except SalverError as error:
            return self.recorded(error, model)
        return None

    def recorded(self, refusal: SalverError, model: str) -> SalverError:
        """Record a refusal and return it."""
        return self._table.recorded(self._key, self._right, refusal, model)

    def limits(self, model: str, tenant: str) -> tuple[Limits, ...]:
        """Return the limits that apply to a run together, the narrowest first."""
        table = self._table
        if table.book.is_empty:
            return self._own
        return table.book.of(self._key.limits, tenant, model, table.ticks())

    def plan(self, model: str, tenant: str) -> RunPlan:
        """Return what runs of a model cost for a tenant."""
        book, limits = self._table.book, self.limits(model, tenant)
        # The parameters of a request may name a tenant where the key names none.
        has_tenant = not book.has_tenants or (self.granted or ANY).tenant != ANY_TENANT
        return RunPlan(
            *(model, tenant, limits, book.generation, self.account, self._table.ticks),
            functools.partial(self._table.recorded, self._key, self._right),
            has_tenant=has_tenant,
        )

    def is_over(self) -> bool:
        """Return whether the key has ended, so that the caller has to be asked for another."""
        self.is_stale = not self._key.is_alive
        return self.is_stale

    def _planned(self, model: str) -> RunPlan | SalverError:
        """Return what runs of a model cost, or why there are none."""
        if not self._scope.is_allowed(model):
            return self.recorded(self._scope.refusal(model), model)
        plan = self.plan(model, self.standing.tenant)
        self._plan = plan if plan.is_shared else None
        return plan

    def begin(self, model: str) -> RunUsage | SalverError | None:
        """See :class:`~salver.words.messages.Grant`."""
        plan = self._planned(model)
        return plan if isinstance(plan, SalverError) else self._begun(plan)

    def _begun(self, plan: RunPlan) -> RunUsage | SalverError | None:
        """Return the charge of a run by a plan, or why it is refused; None = it has none."""
        if plan.is_free:
            return None if plan.meter is None else RunUsage(plan.meter, plan.model)
        refused = plan.enter()
        if refused is not None:
            return self._refused(refused, plan.model)
        return RunCharge(self, plan)

    def enter(self, model: str) -> RunPlan | RunUsage | SalverError | None:
        """Count a request whose answer is delivered whole; None = it needs a task.

        An error says why it is refused.
        """
        key, plan = self._key, self._plan
        if not key.is_alive:
            self.is_stale = True
            return None
        key.is_used = True
        if plan is None or plan.model != model or plan.generation != self._table.book.generation:
            found = self._planned(model)
            if isinstance(found, SalverError):
                return found
            if not found.is_shared:
                return self._begun(found)
            plan = found
        if plan.is_limited and (refused := plan.enter()) is not None:
            return self._refused(refused, model)
        return plan

    def _refused(self, refused: SalverError, model: str) -> SalverError:
        """Record that a request to run a model is refused; whether it is may have to be awaited."""
        if isinstance(refused, QuotaUnsettled):
            return refused
        self.was_refused = True
        return self.recorded(refused, model)


def _sure_ns(refused: RateLimited) -> int:
    """Return the nanoseconds for which it is sure that every request of the caller is refused."""
    # Runs may end at any time, and what a ledger tells of a quota may change.
    is_rate = type(refused) is RateLimited and refused.limit is not None and refused.limit.window_s > 0
    return int(refused.retry_after * 1e9) if is_rate else 0


class KeyTable:
    """All keys of one server.

    Args:
        now: Returns Unix seconds.
        ticks: Returns monotonic nanoseconds.
        tenant_header: Header that names the tenant, in lower case; empty = none.
        token: Digest of the server's token, which is a key with all rights; empty = no token.

    Attributes:
        refusals: Record of what was refused.
        book: Limits of tenants, models and the server.
        identities: Knows further callers; None = there are none.
        is_open: No source of keys has ever had one, so that requests need none.
        accounts: Counts what they use; None = nothing is counted.
    """

    def __init__(
        self, now: Callable[[], float], ticks: Callable[[], int], tenant_header: bytes, token: bytes = b""
    ) -> None:
        self.now = now
        self.ticks = ticks
        self._tenant_header = tenant_header
        self.book = LimitBook()
        self.refusals = Refusals(ticks)
        self.identities: Identities | None = None
        self.accounts: Accounts | None = None
        self._keys: dict[bytes, Key] = {}
        if token:
            self._keys[token] = Key("token", "", Scopes(("*",)), granted=None)
        #: Keys by their source.
        self._sources: dict[str, dict[bytes, Key]] = {"token": dict(self._keys)}
        self._declared: dict[str, DeclaredLimits] = {}
        self.is_open = False
        #: The last headers that were admitted, by identity, with their key and the grant to run models.
        self._last: tuple[RawHeaders, Key | None, KeyGrant | None] = (), None, None

    def __repr__(self) -> str:
        return f"<KeyTable of {len(self._keys)} hashes>"

    def replace(
        self, found: dict[bytes, Key], source: str = "file", *, is_open: bool = False
    ) -> list[KeyChange]:
        """Replace all keys of a source, by digest; a key that is gone or differs ends at once.

        What a key has used of its limits stays with its id, so that a rotation gives no second budget.

        Args:
            is_open: The source has never had a key, and no other source had one before.

        Returns:
            What has changed, in the order of the ids.
        """
        self.is_open = is_open and self.identities is None
        self._sources[source] = found
        before, keys, uses = self._keys, dict[bytes, Key](), self.last_uses()
        for each in self._sources.values():
            keys |= each
        used = {key.id: key for key in before.values()}
        changed = {key.id for digest, key in keys.items() if digest not in before}
        for key in keys.values():
            if key.id in used and key.has_limits_of(used[key.id]):
                key.limits = used[key.id].limits
            if key.id in used:
                key.last_use = uses.get(key.id, 0.0)
        for digest, key in before.items():
            new = keys.get(digest)
            if new is not None and key.is_like(new):
                keys[digest] = key
            else:
                key.is_alive = False
                changed.add(key.id)
        self._keys = keys
        present = {key.id: key for key in keys.values()}
        return [_change(id, used.get(id), present.get(id)) for id in sorted(changed)]

    def record(self, error: SalverError, key: Key | None, right: Right, model: str) -> None:
        """Record a refusal.

        Args:
            key: None = the request has none that is known.
        """
        self.refusals.record(error, key.id if key else "", right, model)
        if key is not None and key.account is not None and right == "infer":
            key.account.meter.refuse(model)
            error.repeated = functools.partial(_repeat, error.repeated, key.account.meter, model)

    def recorded(self, key: Key, right: Right, error: SalverError, model: str) -> SalverError:
        """Record a refusal and return it."""
        self.record(error, key, right, model)
        return error

    def accept(self, identities: Identities) -> None:
        """Accept callers whom others vouch for; requests need a key from now on."""
        self.identities = identities
        self.is_open = False

    def declare(self, limits: DeclaredLimits, source: str = "file") -> None:
        """Replace a source's limits of tenants, models and the server; those of a file go before a ledger's.

        What is used of limits that stay is kept.
        """
        self._declared[source] = limits
        found = self._declared.get("file", NONE).before(self._declared.get("ledger", NONE))
        if found != self.book.declared:
            self.book = LimitBook(found, self.book)

    def admit(
        self, headers: RawHeaders, right: Right, model: str = "", *, is_later: bool, is_trial: bool = False
    ) -> Grant | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        if right == "open" or self.is_open:
            return None
        key: Key | None = None
        try:
            key = self._find(headers)
            key = self._valid(key)
            self._last = headers, key, None
            if right == "known":
                return None
            scope = key.scopes.of(right)
            if not is_later:
                scope.check(model)
        except SalverError as error:
            if not is_trial:
                self.record(error, key, right, model)
            raise
        checks = is_later and not scope.has_all
        if right != "infer":
            return KeyGrant(self, key, right, ANYBODY, checks=True) if checks else None
        standing = from_headers(dict(headers), self._tenant_header, key.granted)
        now = self.ticks()
        limits = self.book.of(key.limits, standing.tenant, model, now)
        # A trial is about what follows from the head alone.
        refused: RateLimited | None = refusal(limits, now) if limits and not is_trial else None
        account = key.account
        if refused is None and not is_trial and account is not None and account.quotas is not None:
            refused = account.quotas.refusal(is_trial=True)
        if refused is not None:
            self.record(refused, key, right, model)
            raise refused
        is_free = key.granted is None and account is None
        if is_free and not (checks or limits) and self.book.is_empty:
            return None
        grant = KeyGrant(self, key, right, standing, checks=checks, headers=headers)
        self._last = headers, key, grant
        return grant

    def lasting(self, prompt: Prompt, headers: RawHeaders) -> Prompt:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        if self.is_open:
            return functools.partial(_while_open, prompt, self)
        last, key, grant = self._last
        if last is not headers or key is None:  # fronts ask about the headers that were just admitted
            key, grant = self._valid(self._find(headers)), None
        if key.until == _FOREVER and grant is not None:
            return prompt  # the grant is asked each time
        return functools.partial(_while_valid, prompt, key, self, self.book)

    def caller(self, headers: RawHeaders) -> Caller | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        key = self.own(headers)
        if key is None or not key.name:
            return None
        # Names of callers whom others vouch for could be those of keys; their ids begin with who does.
        return Caller(key.id if ":" in key.id else f"key:{key.name}")

    def own(self, headers: RawHeaders) -> Key | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        try:
            return self._valid(self._find(headers))
        except (Unidentified, InvalidInput):
            return None

    def last_uses(self) -> dict[str, float]:
        """Return Unix seconds of the last request with each key that was used, by id.

        A use is known to the time between two calls: a look at the clock would cost each request.
        """
        found: dict[str, float] = {}
        now = self.now()
        for key in self._keys.values():
            if key.is_used:
                key.is_used, key.last_use = False, now
            if key.last_use > found.get(key.id, 0.0):
                found[key.id] = key.last_use
        return found

    def _find(self, headers: RawHeaders) -> Key | None:
        """Return the one key that the headers carry; None = it is unknown.

        Raises:
            Unidentified: there is none.
            InvalidInput: there are several of different callers.
        """
        keys = [self._known(text) if text else None for text in credentials(headers)]
        if self.identities is not None:
            keys += self.identities.by_peer(headers)
        if not keys:
            raise Unidentified("a request needs a key", fix=_HOW)
        first = keys[0]
        if any(key is None or first is None or key.id != first.id for key in keys[1:]):
            raise InvalidInput(
                "the request has several keys, of different callers or not all valid", fix="Send one."
            )
        return first

    def _known(self, text: bytes) -> Key | None:
        """Return the key of a credential; None = it is unknown."""
        digest = digest_of(text)
        key = self._keys.get(digest)
        if key is None and self.identities is not None:
            return self.identities.by_token(digest, text)
        return key

    def _valid(self, key: Key | None) -> Key:
        """Return a key that is valid. Raises Unidentified."""
        if key is None or not key.is_alive or key.until <= self.now():
            # One text for all of them: what is wrong with a key concerns its owner only.
            raise Unidentified("the key is not valid", fix="Ask for a new one.", has_credential=True)
        key.is_used = True
        if key.account is None and self.accounts is not None:
            quotas = () if key.limits is None else key.limits.rules.quotas
            key.account = self.accounts.account(key.id, quotas)
        return key


def _change(id: str, before: Key | None, after: Key | None) -> KeyChange:
    if after is None:
        return KeyChange("revoked", id, before.name if before else "")
    return KeyChange("changed" if before else "added", id, after.name)


def _repeat(counted: Callable[[int], None] | None, meter: Meter, model: str, count: int) -> None:
    """Count refused requests that got copies of an answer."""
    if counted is not None:
        counted(count)
    meter.refuse(model, count)


def _while_valid(prompt: Prompt, key: Key, table: KeyTable, book: LimitBook, exchange: Exchange) -> bool:
    """Answer with the prompt of a request, unless its key has ended since its head was first seen."""
    if key.is_alive and table.book is book and (key.until == _FOREVER or table.now() < key.until):
        key.is_used = True
        return prompt(exchange)
    exchange.head.notes.clear()
    return False


def _while_open(prompt: Prompt, table: KeyTable, exchange: Exchange) -> bool:
    """Answer with the prompt of a request, unless the first key has been made since."""
    if table.is_open:
        return prompt(exchange)
    exchange.head.notes.clear()
    return False
