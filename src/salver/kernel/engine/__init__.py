"""Engines: queues, batching and the execution of one model version.

``batcher`` decides what runs and when (pure), ``admission`` checks requests, ``placement`` chooses where a
model runs; ``engine`` is the asyncio shell, and a :class:`~salver.kernel.engine.ports.Runner` does the work:
``thread`` in this process, ``process`` in host processes. ``simulator`` drives the same batcher on a clock of
its own.
"""
