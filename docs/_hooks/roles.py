"""Docstrings are written for readers of the source; this makes Markdown of what Markdown does not know."""
import re

import griffe

ROLE = re.compile(r':(?:func|class|meth|mod|data):`~?([^`]+)`')  # :func:`name`, as Sphinx has it
TYPE_ALONE = re.compile(r'(^ *Returns:\n +[A-Za-z][\w.\[\], |]*)$(?!\n +\S)', re.MULTILINE)  # without a description


class Roles(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = TYPE_ALONE.sub(r'\1:', plain(obj.docstring.value))

    def on_package(self, *, pkg, **options):  # the outermost module is no object to on_object
        self.on_object(obj=pkg, **options)


def plain(text):
    """The text with the names of roles left out."""
    return ROLE.sub(r'`\1`', text)
