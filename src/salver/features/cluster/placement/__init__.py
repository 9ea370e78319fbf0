"""Placement of replicas on the nodes of a cluster. Pure.

``policy`` decides what is where, ``room`` counts what is free, ``ejection`` makes room by moving others, and
``steps`` orders the changes so that each fits when its turn comes. The reasons are in
``docs/adr/0020-beyond-one-machine.md``.
"""
