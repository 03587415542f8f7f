"""How Sphinx builds the site: `make docs`. It fetches nothing, and warnings are errors."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.ext.napoleon.docstring import GoogleDocstring

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent), str(HERE.parent / "plugins")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("EQUIV_PROBE", None)  # a reader's own setting would change what the tutorials print
os.environ["COLUMNS"] = "100"
warnings.filterwarnings("ignore")  # of frameworks about themselves; what a tutorial prints, it prints
logging.disable(logging.INFO)  # likewise: tips of frameworks, progress of measurements

project = "equiv_probe"
author = "the authors of equiv_probe"
project_copyright = "the authors of equiv_probe, MIT licence"
release = version_of("equiv-probe")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "math_without_scripts",
    "pages_of_results",
    "written_from_code",
]
exclude_patterns = [
    "_build",
    "extensions",
    "stored",
    "tutorials",
    "generated/*.md",
    "generated/extra",
    "generated/tutorials/*.py",
]
default_role = "literal"
nitpicky = False
suppress_warnings = ["config.cache"]  # options of sphinx-gallery that are no plain values

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Of a property, what stands before a colon is a sentence and no type.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials"],
    "gallery_dirs": ["generated/tutorials"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "copyfile_regex": r"$^",
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "default_thumb_file": str(HERE / "_static" / "report.png"),
    "min_reported_time": 1e6,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "matplotlib_animations": False,
    "image_srcset": ["2x"],
    "capture_repr": ("_repr_html_",),
    "reset_modules": ("matplotlib",),
    "write_computation_times": False,
}

html_theme = "furo"
html_title = "equiv_probe"
pygments_dark_style = "monokai"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["generated/extra"]
(HERE / "generated" / "extra").mkdir(parents=True, exist_ok=True)  # what is in it is written later
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

copybutton_prompt_text = re.escape("$ ")
copybutton_only_copy_prompt_lines = True
