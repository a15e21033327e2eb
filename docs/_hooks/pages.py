"""What the site adds to docs/*.md when it is built. On the repository the same pages read well without it.

- ``[code: NAME](../FILE.py)``, alone on a line, becomes the source of NAME in FILE.
- ``<!-- include FILE: HEADING -->`` becomes that section of another Markdown file; without HEADING, what precedes the
  first one.
- Between ``<!-- if PAGE -->``, ``<!-- else -->`` and ``<!-- end -->`` one half stays, by whether the page exists.
- ``<!-- every message -->`` becomes a table of every InputError.
- ``::: PACKAGE.*`` becomes the reference of every module of a package.
- Links to files outside docs/ lead to pages that show them.
- Entries of the navigation whose page does not exist are left out.
"""
import ast
import logging
import posixpath
import re
from html import escape

from equations import Equations
from mkdocs.structure.files import File
from roles import plain
from sources import ROOT, definition, messages, modules, parse, split_remedy

log = logging.getLogger('mkdocs.hooks.pages')
LINK = re.compile(r'(?<=\]\()(?!\w+:)([^)#\s]+)')
LANGUAGES = {'.py': 'python', '.yml': 'yaml', '.sh': 'bash', '.md': 'markdown'}


def on_config(config):
    config.markdown_extensions.append(Equations())
    config.nav = [entry for entry in map(_existing, config.nav) if entry]
    return config


def _existing(entry):
    (title, target), = entry.items()
    if isinstance(target, list):
        return {title: [inner for inner in map(_existing, target) if inner]}
    return entry if (ROOT / 'docs' / target).is_file() else None


def on_files(files, config):
    """Adds a page for every file outside docs/ that a page links to."""
    linked = set()
    for file in files.documentation_pages():
        linked.update(path for _, path in _links_out(expand(file.content_string, file.src_uri), file.src_uri))
    for path in sorted(linked):
        if not (ROOT / path).exists():
            log.warning('a page links to %s, which does not exist', path)
            continue
        files.append(File.generated(config, f'source/{path}.md', content=_source_page(path)))
    return files


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri.startswith('source/'):
        return markdown
    markdown = expand(markdown, page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri) or '.'
    for link, path in set(_links_out(markdown, page.file.src_uri)):
        shown = posixpath.relpath(f'source/{path}.md', here)
        markdown = re.sub(rf'(?<=\]\(){re.escape(link)}(?=[)#])', shown, markdown)
    return markdown


def _links_out(markdown, page):
    """[(link, path from the root of the repository)] of the links of a page that leave docs/."""
    found = []
    for link in LINK.findall(markdown):
        path = posixpath.normpath(posixpath.join('docs', posixpath.dirname(page), link))
        if not path.startswith('docs/'):
            found.append((link, path))
    return found


def _source_page(path):
    """A file as a page, a folder as a list of what is in it."""
    file = ROOT / path
    head = f'---\ntitle: {path}\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {path}\n\n'
    if file.is_dir():
        return head + '\n'.join(f'- `{inner.name}`' for inner in sorted(file.iterdir()) if inner.name[0] not in '_.')
    return head + _fence(file.read_text(encoding='utf-8'), LANGUAGES.get(file.suffix, 'text'))


def _fence(text, language, title=''):
    return f'``````{language}{title and f" title={chr(34)}{title}{chr(34)}"}\n{text.rstrip()}\n``````'


# ---------------------------------------------------------------------- directives


def expand(markdown, page):
    """The Markdown of a page with its directives carried out."""
    markdown = re.sub(r'^<!-- if (\S+) -->\n(.*?)^<!-- else -->\n(.*?)^<!-- end -->$',
                      lambda m: m[2] if (ROOT / 'docs' / m[1]).is_file() else m[3], markdown, flags=re.M | re.S)
    markdown = re.sub(r'^<!-- include ([^:\s]+)(?:: (.+?))? -->$', lambda m: _section(m[1], m[2], page), markdown,
                      flags=re.M)
    markdown = re.sub(r'^\[code: ([\w.]+)\]\((?:\.\./)+([^)]+)\)$', lambda m: _code(m[2], m[1]), markdown, flags=re.M)
    markdown = re.sub(r'^::: (\w+)\.\*$', lambda m: _reference(m[1]), markdown, flags=re.M)
    return re.sub(r'^<!-- every message -->$', lambda m: every_message(), markdown, flags=re.M)


def _code(path, name):
    try:
        text = definition(ROOT / path, name)
    except (OSError, LookupError) as error:
        log.warning('%s', error)
        return ''
    return _fence(text, 'python', path) + f'\n\n[{path}](../{path})\n{{.source}}'


def _section(path, heading, page):
    """A section of a Markdown file, without its heading, its links seen from docs/``page``."""
    text = _under((ROOT / path).read_text(encoding='utf-8'), heading)
    if text is None:
        log.warning('%s has no heading %r', path, heading)
        return ''
    base, here = posixpath.dirname(path), posixpath.join('docs', posixpath.dirname(page))
    return LINK.sub(lambda m: posixpath.relpath(posixpath.join(base, m[1]), here), text).strip()


def _under(text, heading):
    """What stands under a heading up to the next of its level, or between the title and the first. Or None."""
    taken, depth, fenced = None, 1, False
    for line in text.splitlines():
        fenced ^= line.startswith('```')
        level = 0 if fenced else len(re.match(r'(#*) ?', line)[1])
        if taken is None:
            if level and (line.lstrip('# ') == heading or heading is None):
                taken, depth = [], level if heading else 6
        elif 0 < level <= depth:
            break
        else:
            taken.append(line)
    return None if taken is None else '\n'.join(taken)


def _reference(package):
    """Every module of a package: a list of what each is for, then their docstrings."""
    names = [name for name in modules() if f'{name}.'.startswith(f'{package}.')]
    purposes = {name: (ast.get_docstring(parse(modules()[name])[1]) or '').split('\n\n')[0] for name in names}
    rows = [f'| [{name}](#{name}) | {" ".join(plain(purpose).split())} |' for name, purpose in purposes.items()]
    return '\n'.join(['| module | |', '|---|---|', *rows]) + '\n\n' + '\n\n'.join(f'::: {name}' for name in names)


def every_message():
    """A table of what is wrong and what to do for each module, in HTML: Markdown would eat signs of the messages."""
    tables, found = [], messages()
    for module in sorted({message.module for message in found}):
        columns = [map(escape, split_remedy(message.text)) for message in found if message.module == module]
        rows = ''.join('<tr class="message"><td>{}</td><td>{}</td></tr>'.format(*both) for both in columns)
        tables.append(f'### {module}\n\n<table><thead><tr><th>it says</th><th>what to do</th></tr></thead>'
                      f'<tbody>{rows}</tbody></table>')
    return '\n\n'.join(tables)
