"""Common options of the ``salver registry`` commands, and access to the registry."""

import asyncio
import contextlib
import functools
import getpass
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from cyclopts import Parameter

from salver.terminal.options import Artifacts
from salver.words.errors import InvalidInput, SalverError

if TYPE_CHECKING:
    from salver.features.registry.opening import RegistryLocation
    from salver.features.registry.records import Actor
    from salver.features.registry.registry import ModelRegistry
    from salver.features.registry.tokens import Tokens
    from salver.features.registry.webhooks import Webhooks

T = TypeVar("T")
Why = Annotated[str, Parameter(help="Reason, for the history.")]
Pairs = Annotated[tuple[str, ...], Parameter(help="KEY=VALUE, repeatable.")]
#: Seconds for notifying webhooks after a change; the rest is left to a server or the next change.
_TELLING_SECONDS: Final = 5.0
# time-out of each, shorter so that one that hangs is recorded as failed and not tried every time
_ANSWER_SECONDS: Final = 4.0


@Parameter(name="*")
@dataclass(frozen=True)
class RegistryOptions:
    """Options that select a registry."""

    registry: Annotated[
        str,
        Parameter(
            name="--registry",
            env_var="SALVER_REGISTRY",
            help="Its folder, or postgresql://user@host/database. Default: $XDG_DATA_HOME/salver/registry, "
            "or ~/.local/share/salver/registry.",
        ),
    ] = ""
    artifacts: Artifacts = ""

    def home(self) -> "RegistryLocation":
        """Return its location."""
        from salver.features.registry.opening import default_folder, home_of

        return home_of(self.registry or default_folder(), self.artifacts)


USUAL: Final = RegistryOptions()


#: Unix seconds.
now: Final = time.time


def new_id() -> str:
    """Return a unique id of 16 hexadecimal digits."""
    return secrets.token_hex(8)


def tokens(registry: "ModelRegistry") -> "Tokens":
    """Return the tokens of a registry."""
    from salver.features.registry.tokens import Tokens

    return Tokens(registry.ledger, now, new_id, secrets.token_bytes)


def webhooks(registry: "ModelRegistry") -> "Webhooks":
    """Return the webhooks of a registry."""
    from salver.features.registry.webhooks import Webhooks

    return Webhooks(registry.ledger, now, new_id, secrets.token_bytes)


def run(
    where: RegistryOptions, work: "Callable[[ModelRegistry, Actor], Awaitable[T]]", *, makes: bool = False
) -> T:
    """Run work on the registry as the token's owner or the system user, then notify webhooks.

    Raises:
        SalverError: raised by the work;
        NotFound: there is no such registry.
    """
    from salver.features.registry.opening import open_registry

    async def main() -> T:
        registry = await open_registry(where.home(), now, new_id, makes=makes)
        async with registry.ledger:
            done = await work(registry, await _actor(registry))
            await _tell(registry)
            return done

    return asyncio.run(main())


async def _actor(registry: "ModelRegistry") -> "Actor":
    from salver.features.registry.records import Actor

    if text := os.environ.get("SALVER_TOKEN", ""):
        return await tokens(registry).actor(text)
    return Actor(system_user())


def system_user() -> str:
    """Return the name of the user who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


async def _tell(registry: "ModelRegistry") -> None:
    from salver.features.registry.deliveries import Deliverer
    from salver.features.registry.posting import post

    with contextlib.suppress(TimeoutError, SalverError):  # the change is done, even if notification fails
        async with asyncio.timeout(_TELLING_SECONDS):
            soon = functools.partial(post, seconds=_ANSWER_SECONDS)
            await Deliverer(registry.ledger, soon, now).once()


def pairs_of(given: Iterable[str], flag: str) -> dict[str, str]:
    """Parse ``KEY=VALUE`` arguments.

    Raises:
        InvalidInput: one has another form.

    >>> pairs_of(["team=risk", "note=a=b"], "--tag")
    {'team': 'risk', 'note': 'a=b'}
    """
    found = {}
    for pair in given:
        key, is_there, value = pair.partition("=")
        if not key or not is_there:
            raise InvalidInput(f"{flag} {pair!r} is not KEY=VALUE")
        found[key] = value
    return found


def numbers_of(given: Iterable[str], flag: str) -> dict[str, float]:
    """Parse ``NAME=NUMBER`` arguments.

    Raises:
        InvalidInput: one has another form.

    >>> numbers_of(["auc=.93"], "--metric")
    {'auc': 0.93}
    """
    found = {}
    for name, text in pairs_of(given, flag).items():
        try:
            found[name] = float(text)
        except ValueError:
            raise InvalidInput(f"{flag} {name}={text} is not a number") from None
    return found
