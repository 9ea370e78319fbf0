"""Keys of callers in the ledger, where all its servers find them, and the tools for keys anywhere."""

from salver.feature import Feature
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
