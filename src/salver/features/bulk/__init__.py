"""Bulk inference over all rows of a file.

:func:`run` does a :class:`Job`: JSON lines, CSV, Parquet and numpy's files in and out, in constant memory,
and an interrupted job continues when it is run again::

    async with Client(timeout=300) as client:
        job = Job(model="wine", source=Path("wines.csv"), target=Path("answers.parquet"))
        summary = await run(client, job)
"""

from salver.features.bulk.job import Progress, Summary, run
from salver.features.bulk.plan import Job

__all__ = ["Job", "Progress", "Summary", "run"]
