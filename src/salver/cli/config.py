"""``salver config``: what configuration files may say."""

import json

from cyclopts import App

from salver.terminal.output import line

config = App(name="config", help="What configuration files may say.")


@config.command
def schema() -> int:
    """Print the JSON Schema of salver.toml, for editors."""
    from salver.kernel.repository.toml_schema import schema as made

    line(json.dumps(made(), indent=1, ensure_ascii=False))
    return 0
