"""Parts of identity: the file of issuers, proxies and the table, and the keys of issuers."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from salver.backends.loading import state_of
from salver.features.access import IdentityConfig
from salver.features.access.building import table_of
from salver.features.access.key_table import KeyTable
from salver.lazy import lazy_imports
from salver.parts import Kernel, Parts, Tick
from salver.transport.http1_head import Headers
from salver.words.errors import InvalidInput, SalverError

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily

    from salver.features.identity import key_set, rules
    from salver.features.identity.identities import Identities
    from salver.features.identity.peers import Proxies, facts
    from salver.features.identity.tokens import Tokens

_LOG: Final = logging.getLogger("salver.access")
_LOOK_S: Final = 1.0
_MOST_BYTES: Final = 1 << 20


class WatchedIdentities:
    """Identities of a file that is read again when it changes, and of keys that are fetched again.

    Attributes:
        now: The identities as they are now.
    """

    def __init__(self, path: Path, keys: KeyTable) -> None:
        self._path = path
        self._keys = keys
        self._seen: object = None
        self._sources: list[key_set.KeySource] = []
        self.now: Identities | None = None

    def __repr__(self) -> str:
        return f"<WatchedIdentities {self._path}>"

    async def read(self) -> None:
        """Read the file. Raises InvalidInput, and then changes nothing."""
        self._seen = state_of(self._path)
        file = rules.parse(self._text(), str(self._path))
        sources = [key_set.KeySource(issuer, self._path.parent) for issuer in file.issuer]
        before = {source.issuer: source for source in self._sources}
        sources = [before.get(source.issuer, source) for source in sources]
        fresh = Identities(
            Tokens(sources),
            Proxies(file.proxy),
            rules.Table(file.identity),
            has_certificates=any(row.source in ("", "certificate") for row in file.identity),
        )
        await asyncio.gather(*(self._refresh(source) for source in sources))
        if self.now is not None:
            fresh.inherit(self.now)
        self._sources, self.now = sources, fresh
        self._keys.accept(fresh)
        _LOG.info("identities of %s are accepted", self._path)

    async def look(self) -> None:
        """Read what has changed; what is wrong is logged, and everything stays as it was."""
        if await asyncio.to_thread(state_of, self._path) != self._seen:
            try:
                await self.read()
            except SalverError as error:
                _LOG.error("the identities stay as they are: %s", error)
        changed = await asyncio.gather(*(self._refresh(source) for source in self._sources))
        if any(changed) and self.now is not None:
            self.now.forget()

    def collect(self) -> Iterator[Metric]:
        """Return the metric families; called by the Prometheus registry."""
        count = GaugeMetricFamily(
            "salver_identity_keys", "Usable keys of an issuer of tokens.", labels=["issuer"]
        )
        age = GaugeMetricFamily(
            "salver_identity_keys_age_seconds", "Time since they were read.", labels=["issuer"]
        )
        for source in self._sources:
            count.add_metric([source.issuer.issuer], len(source.keys))
            age.add_metric([source.issuer.issuer], source.age_s)
        yield count
        yield age

    def facts(self, transport: asyncio.BaseTransport) -> Headers:
        """Return what a connection tells about its other end."""
        return () if self.now is None else facts(transport, self.now.proxies)

    async def _refresh(self, source: "key_set.KeySource") -> bool:
        """Fetch the keys of an issuer if it is time; return whether they have changed."""
        name = source.issuer.issuer
        try:
            has_changed = await source.look()
        except (SalverError, OSError, TimeoutError, ValueError) as error:
            why = str(error) or type(error).__name__
            _LOG.error("the keys of %s stay as they are (%d): %s", name, len(source.keys), why)
            return False
        return has_changed

    def _text(self) -> str:
        try:
            with self._path.open("rb") as file:
                return file.read(_MOST_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{self._path} cannot be read: {error}", field="--identity-file") from error


async def build(kernel: Kernel, config: IdentityConfig) -> Parts:
    """Accept identities in every protocol.

    Raises:
        InvalidInput: the file cannot be read or is wrong, or a library is missing.
    """
    watched = WatchedIdentities(Path(config.file), table_of(kernel))
    try:
        await watched.read()
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"--identity-file needs a library: {error}", fix="Install salver[identity]."
        ) from error
    kernel.peers = watched.facts
    ticks = [Tick("identities", _LOOK_S, watched.look)]
    return Parts(collectors=[watched], ticks=ticks, look=watched.look)
