"""How is the documentation built? `make docs`, from Markdown, without a network."""

from importlib.metadata import version as installed

project = "Salver"
author = "The Salver authors"
copyright = "The Salver authors, Apache-2.0"
version = release = installed("salver")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
# Examples of JSON and of console output are shortened with "…", which no lexer knows.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "Salver"
html_show_sphinx = False
html_copy_source = False
