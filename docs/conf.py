"""Sphinx: MyST pages and an API reference generated from the docstrings."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "aio_provider"
author = "The aio_provider authors"
project_copyright = "2026, the aio_provider authors"
version = release = installed_version("aio-provider")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "notebooks/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "aio_provider"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True
