"""LaTeX as MathML, at build time: nothing is fetched and no script runs. The notation is GitHub's.

A fence ```math holds a displayed equation; an inline one stands between a dollar sign with a backtick and the reverse.
"""
import re

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

FENCE = re.compile(r'^```math\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INLINE = r'\$`([^`]+)`\$'


class Display(Preprocessor):
    def run(self, lines):
        def replace(match):
            html = f'<div class="equation">{convert(match[1].strip(), display="block")}</div>'
            return self.md.htmlStash.store(html)
        return FENCE.sub(replace, '\n'.join(lines)).split('\n')


class Inline(InlineProcessor):
    def handleMatch(self, match, data):  # noqa: N802  Markdown's name
        return self.md.htmlStash.store(convert(match[1])), match.start(0), match.end(0)


class Equations(Extension):
    def extendMarkdown(self, md):  # noqa: N802  Markdown's name
        md.preprocessors.register(Display(md), 'equations', 30)  # before code fences
        md.inlinePatterns.register(Inline(INLINE, md), 'equations', 195)  # before code spans
