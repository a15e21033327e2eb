"""Docstrings name things as Sphinx has it, :func:`name`; this makes them links for mkdocstrings."""
import re

import griffe

ROLE = re.compile(r':(?:func|class|meth|mod|data):`(~?)([^`]+)`')


class Roles(griffe.Extension):
    def on_package(self, *, pkg, **_):  # by then every name can be resolved
        _link(pkg)


def _link(item):
    if item.docstring:
        item.docstring.value = ROLE.sub(lambda match: _reference(item, *match.groups()), item.docstring.value)
    for member in item.members.values():
        if not member.is_alias:
            _link(member)


def _reference(item, short, name):
    """A link where the reference has the name, else the name alone."""
    try:
        path = item.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition('.')[2] if short else name
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
