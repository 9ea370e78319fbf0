"""Models on several machines: replicas on the nodes of a cluster, behind this server's queue and port.

``ports`` is the interface of a cluster, which ``local`` (host processes of this machine) and ``ray_cluster``
(actors) implement. ``replicas`` runs batches on the replicas of a model, whichever it is; ``placement``
decides which replica runs on which node. ``docs/adr/0020-beyond-one-machine.md`` has the reasons.
"""
