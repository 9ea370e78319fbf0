"""Keys of callers in the ledger, where all its servers find them, and the tools for keys anywhere."""

from salver.feature import Feature
from salver.features.access import AccessConfig
from salver.features.registry import RegistryConfig

feature = Feature(
    "keyring",
    "salver.features.keyring.building:build",
    config=RegistryConfig,
    table="registry",
    has_table=False,
    is_used=lambda config: bool(config.ledger),
    after=("access", "identity", "registry"),
)
of_file = Feature(
    "keyring-file",
    "salver.features.keyring.file_building:build",
    config=AccessConfig,
    table="access",
    has_table=False,
    is_used=lambda config: bool(config.keys_file),
    after=("keyring",),
)
