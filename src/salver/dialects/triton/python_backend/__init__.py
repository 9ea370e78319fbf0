"""Models written for Triton's Python backend, which run unchanged.

``backend.py`` recognises them, ``opening.py`` loads them, ``model.py`` calls them, ``config.py`` has their
configuration, and ``pb_utils.py`` is what they import as ``triton_python_backend_utils``. Each runs in a host
process of its own, the only one where that name can be imported.
"""

from typing import Final

#: Name of the format.
FORMAT: Final = "triton_python"
