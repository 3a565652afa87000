"""The documentation site: `make docs`."""

import drsformer_jax

project = "drsformer_jax"
author = "The drsformer_jax developers"
copyright = author
version = release = drsformer_jax.__version__

# The source is the repository: pages link to the files beside them, which become downloads.
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "benchmarks/README.md",
]
exclude_patterns = ["docs/_build"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
default_role = "code"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
html_theme = "furo"
html_title = "DRSformer in JAX"
