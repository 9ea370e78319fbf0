"""Rules: which model answers a request, how, or why none does, by what the request says.

``table`` decides from the facts of a request; ``stage`` carries it out. ``docs/how-to/rules.md`` shows them.
"""
