"""Models written for Triton's Python backend, which run unchanged.

``backend.py`` recognises them; ``opening.py`` finds the model and passes it what Triton would; ``model.py``
calls it; ``config.py`` is its configuration as it sees it; ``pb_utils.py`` is what it imports as
``triton_python_backend_utils``. Such a model runs in a host process of its own, the only one in which that
name can be imported.
"""
