"""Usage: what keys use, by model and hour, and their quotas, which outlive the server."""

from typing import Annotated

import msgspec

from salver.feature import Feature
from salver.lazy import lazy_imports

with lazy_imports():
    from salver.features.usage.building import build_accounts
    from salver.parts import Kernel, Parts


class UsageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of usage and quotas.

    Attributes:
        folder: Folder of this machine for what quotas have used, and for usage if there is no ledger; empty =
            beside the keys file, with ``.usage`` after its name.
        days: Days for which usage is kept.
    """

    folder: str = ""
    days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 400


async def build(kernel: "Kernel", config: UsageConfig) -> "Parts":
    """Count what keys use; a server without keys has none of it.

    Raises:
        SalverError: what is used cannot be kept.
    """
    if kernel.keys is None:
        return Parts()
    return await build_accounts(kernel, config)


feature = Feature(
    "usage", "salver.features.usage:build", config=UsageConfig, after=("access", "keyring", "registry")
)
