"""Planning: which models keep their latency promises together on one machine.

``rounds`` has the rule for models that take turns on the same cores, ``packing`` divides a machine's cores
into groups, ``rehearsal`` tries a plan with random arrivals; all pure. ``promises`` refuses loads that would
break a promise. ``salver plan`` and the server get their measured laws from :mod:`salver.features.tuning`.
"""
