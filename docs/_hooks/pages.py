"""What the site adds to docs/*.md when it is built. On the repository the same pages read well without it.

- ``[code: NAME](../FILE.py)``, alone on a line, becomes the source of the function, class or method NAME in FILE; a
  name that is not there ends the build.
- Links to files outside docs/ lead to pages that show them.
"""
import ast
import re
from pathlib import Path

from equations import Equations
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
CODE = re.compile(r'^\[code: ([\w.]+)\]\((?:\.\./)+([^)]+)\)$', re.MULTILINE)
OUTSIDE = re.compile(r'(?<=\]\()\.\./([^)#\s]+)')  # pages that link out of docs/ lie in docs/ itself
LANGUAGES = {'.py': 'python', '.yml': 'yaml', '.sh': 'bash'}


def on_config(config):
    config.markdown_extensions.append(Equations())
    config.nav = [{title: _written(target)} for entry in config.nav for title, target in entry.items()]
    return config


def _written(target):  # some pages are still being written
    if isinstance(target, str):
        return target
    return [entry for entry in target if all((ROOT / 'docs' / page).is_file() for page in entry.values())]


def on_files(files, config):
    """Adds a page for every file outside docs/ that a page links to."""
    linked = {path for file in files.documentation_pages() for path in OUTSIDE.findall(file.content_string)}
    for path in sorted(linked):
        files.append(File.generated(config, f'source/{path}.md', content=_source_page(path)))
    return files


def on_page_markdown(markdown, page, **_):
    if page.file.src_uri.startswith('source/'):
        return markdown
    return OUTSIDE.sub(r'source/\1.md', CODE.sub(lambda match: _code(match[1], match[2]), markdown))


def _source_page(path):
    """A file as a page, a folder as a list of what is in it."""
    file = ROOT / path
    head = f'---\ntitle: {path}\nsearch: {{exclude: true}}\nhide: [toc]\n---\n# {path}\n\n'
    if file.is_dir():
        return head + '\n'.join(f'- `{inner.name}`' for inner in sorted(file.iterdir()) if inner.name[0] not in '_.')
    if not file.is_file():
        raise PluginError(f'A page links to {path}, which does not exist.')
    return head + _fence(file.read_text(encoding='utf-8'), LANGUAGES.get(file.suffix, 'text'))


def _code(name, path):
    line, text = definition(path, name)
    return f'{_fence(text, "python", line)}\n\n[{path}, line {line}](../{path}#__codelineno-0-{line})\n{{.source}}'


def _fence(text, language, line=1):
    return f'``````{language} linenums="{line}"\n{text.rstrip()}\n``````'


def definition(path, name):
    """(first line, source) of a function, class or method, ``name`` or ``Class.name``, with its decorators."""
    text = (ROOT / path).read_text(encoding='utf-8')
    node = ast.parse(text)
    for part in name.split('.'):
        node = next((child for child in node.body if getattr(child, 'name', None) == part), None)
        if node is None:
            raise PluginError(f'A page shows {name} of {path}, where nothing is called {part}.')
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1:node.end_lineno]
    return first, '\n'.join(line[node.col_offset:] for line in lines)
