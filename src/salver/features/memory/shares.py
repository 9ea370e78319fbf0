"""Shares and ceilings of tenants within the memory budget. Pure.

A tenant owns the models that name it (``memory.tenant``). Others never push it below its share, and it never
takes more than its ceiling. A model can have a share of its own (``memory.share_mb``).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from salver.words.messages import ModelId


class Tenant(msgspec.Struct, frozen=True):
    """Bytes of one tenant.

    Attributes:
        share: Others leave it this much.
        ceiling: It takes no more; 0 = the whole budget.
        priority: Weight of the value of its models.
    """

    share: int = 0
    ceiling: int = 0
    priority: float = 1.0


class Claim(Protocol):
    """Version as the shares see it (:class:`salver.features.memory.policy.Version`)."""

    @property
    def id(self) -> ModelId:
        """Return its name and version."""
        ...

    @property
    def need(self) -> int:
        """Return the bytes that it takes."""
        ...

    @property
    def tenant(self) -> str:
        """Return its tenant; empty = none."""
        ...

    @property
    def share(self) -> int:
        """Return the bytes that others leave it."""
        ...


ClaimT = TypeVar("ClaimT", bound=Claim)


def taken(up: Iterable[tuple[Claim, int]]) -> Counter[str]:
    """Return the bytes of each tenant.

    Args:
        up: Versions in memory or on their way, with what each is counted for.
    """
    found: Counter[str] = Counter()
    for claim, size in up:
        if claim.tenant:
            found[claim.tenant] += size
    return found


def may_go(
    candidates: Sequence[ClaimT],
    used: Mapping[str, int],
    tenants: Mapping[str, Tenant],
    wanting: Claim | None,
) -> list[ClaimT]:
    """Return the versions that may go for another one, in the order given, which is that in which they go.

    Args:
        used: Bytes of each tenant.
        wanting: Version that needs room; None = the server does.
    """
    left, going = dict(used), []
    for claim in candidates:
        if wanting is None or claim.id.name != wanting.id.name:
            if 0 < claim.need <= claim.share:
                continue
            is_own = wanting is not None and claim.tenant == wanting.tenant
            tenant = tenants.get(claim.tenant)
            if tenant is not None and not is_own and left[claim.tenant] - claim.need < tenant.share:
                continue
        if claim.tenant:
            left[claim.tenant] -= claim.need
        going.append(claim)
    return going


def below_ceiling(claim: Claim, used: Mapping[str, int], tenants: Mapping[str, Tenant]) -> int | None:
    """Return the bytes that a version's tenant may still take; None = it has no ceiling."""
    tenant = tenants.get(claim.tenant)
    if tenant is None or not tenant.ceiling:
        return None
    return tenant.ceiling - used.get(claim.tenant, 0)


def may_take(claim: Claim, size: int, used: Mapping[str, int], tenants: Mapping[str, Tenant]) -> bool:
    """Return whether a version's tenant may take so many bytes more."""
    left = below_ceiling(claim, used, tenants)
    return left is None or size <= left
