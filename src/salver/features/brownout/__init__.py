"""Brown-out: what is optional is switched off under load, before requests are refused.

``levels`` decides from the strain of the models, and ``building`` switches. ``docs/adr/0018-routing.md`` has
the reasons.
"""
