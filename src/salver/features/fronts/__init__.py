"""Front processes: more processes that answer at the server's port, around the one that has the models.

The *home* process is an ordinary server. It starts the others, which listen at the same port and pass the
requests on to it. Small models that need nothing of the home process are copied into the fronts, which then
run them themselves. ``docs/adr/0016-fronts.md`` has the reasons.
"""
