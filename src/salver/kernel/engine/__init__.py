"""When does a queue become a batch, and who runs it?

``batcher`` decides whom and when (pure), ``admission`` what fits, ``placement`` on what it runs;
``engine`` is the asyncio shell, and a :class:`~salver.kernel.engine.ports.Runner` does the work: ``thread``
in this process, ``process`` in host processes. ``simulator`` drives the same batcher on a clock of
its own.
"""
