"""How does a ``model.py`` written for Triton's Python backend run unchanged?

``opening.py`` finds the model and tells it what Triton would; ``model.py`` asks it and takes its answers;
``config.py`` is its configuration as it sees it; ``pb_utils.py`` is what it imports as
``triton_python_backend_utils``. Such a model lives in a host process of its own, the only one in which that
name can be imported.
"""

from salver.dialects.triton.python_backend.opening import FORMAT, is_meant, load

__all__ = ["FORMAT", "is_meant", "load"]
