"""A feature of Salver that greets: an example of every part that a feature can bring."""

from greeter.config import GreeterConfig
from salver.feature import Feature

feature = Feature(
    "greeter",
    "greeter.building:build",
    config=GreeterConfig,
    is_used=lambda config: bool(config.greeting),
    commands={"greet": "greeter.command:greet"},
    after=("telemetry",),
)
