"""Model registry: immutable versions with digests, and aliases that point to them.

Every move of an alias is recorded with author, time and reason. Its effect on traffic is up to releases.
"""

import msgspec


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The registry whose models are served.

    Attributes:
        ledger: Folder of the registry, or the URL of its ledger; empty = none, and no releases.
        artifacts: Folder of the registry's files; empty = beside the ledger.
        advertise: URL at which other servers reach this one, for the ledger's list of servers; empty = it is
            not in that list.
        zone: Where this server is, in that list.
    """

    ledger: str = ""
    artifacts: str = ""
    advertise: str = ""
    zone: str = ""
