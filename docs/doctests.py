"""For mkdocstrings: docstrings of jlayers as Markdown.

A ``>>>`` example is fenced (Markdown would make a quotation of it), and the ``::`` before an
indented block becomes a colon.
"""

import re

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.M)


class Doctests(griffe.Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            text = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^::$|(?<=:):$", "", text)
