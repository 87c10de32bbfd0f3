"""The documentation site: `make docs` builds it into docs/_build/html. Warnings are errors; no network is needed."""

import sys
from pathlib import Path

from xvit import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "xvit"
author = copyright = "The xvit contributors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "generated_pages",
    "measured",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
show_warning_types = True

# Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

# The API, from docstrings
default_role = "py:obj"  # `name` in a docstring links to what it names, if it is documented
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# Scripts that run when the site is built
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": "/plot_",
    "ignore_pattern": r"^(?!.*plot_)",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # a page that loads scripts from elsewhere
    "min_reported_time": 3600,  # seconds: no times in the pages, so that a build repeats
}

# Appearance
html_theme = "pydata_sphinx_theme"
html_title = "xvit"
html_static_path = ["_static"]
html_css_files = ["xvit.css"]
html_js_files = ["sidebar.js"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # they are fetched, which browsers refuse for files
html_theme_options = {
    "github_url": "https://github.com/xvit/xvit",
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "compare": []}
