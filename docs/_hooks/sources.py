"""What the site shows of the source, read from it without importing it: functions, and every message of InputError."""
import ast
import re
from collections import namedtuple
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ('noiseda_model', 'noiseda_data', 'noiseda_arch', 'noiseda_basicsr')

Message = namedtuple('Message', 'module line text')  # ``noiseda_data.store``, 40, with ‹names› for what is filled in

# What to do about messages that say what is wrong and leave the rest to the reader; the first that fits counts.
REMEDIES = [
    (r'AlexNet|‹key› has the shape', "Give torchvision's own file, alexnet-owt-7be5be79.pth."),
    (r'no such|does not exist|names no folder',
     'Correct the path; it is relative to the folder the command is started in.'),
    (r'does not fit network|do not fit the network',
     'Give the option file the weights were trained with, or other weights. The message lists what differs.'),
    (r'no entry', 'Name one of the entries it lists.'),
    (r'unknown|its arguments:|is called|known:|knows|not among', 'Correct the name; the message lists what there is.'),
    (r'lists no image', 'Make the LMDB anew with scripts/create_lmdb.py.'),
    (r'not valid YAML', 'Correct the line and column it names; indent with spaces, not tabs.'),
    (r'lacks the key|is missing', 'Add it; options/ shows where it stands.'),
    (r'diffusion_opt needs', 'Add it as in the example, or remove train:diffusion_opt to train without adaptation.'),
    (r'cannot be written', 'Make room, or write to another folder.'),
    (r'cannot be read|not a readable|could not be used|not a ‹writers› file', 'Replace the file, or make it readable.'),
    (r'looked for', 'Give the folder that holds them.'),
    (r'too small', 'Leave the image out.'),
    (r'outside', 'The database names a path of its own; use one from a source you trust.'),
    (r'super-resolution', 'Set scale: 1, or leave it out.'),
    (r'are for folder', 'Leave these options out.'),
    (r'ECC', 'Look at both images; a protocol without alignment measures them as they are.'),
    (r'a submission needs', 'Restore all of BenchmarkNoisyBlocksSrgb.mat.'),
    (r'two or more|needs two|needs photos of', 'Give more, or larger ones.'),
    (r'pip install', 'Run that command.'),
    (r'cannot be adapted|enlarges|cannot be built|turns|cannot be exported|restores differently',
     'Choose another network or other arguments.'),
    (r'(: |\. )‹error›$', 'The end of the message says it.'),
    (r'must|holds no array|hold different names', 'Change it to what the message asks for.'),
    (r'', 'Change the option or file it names; the message says what is expected.'),
]
SAYS_WHAT_TO_DO = re.compile(
    r'(add|ask|change|check|choose|close|complete|continue|convert|copy|correct|divide|download|export|free|give|install'
    r'|keep|leave|lower|make|move|name|pass|put|raise|remove|rename|replace|restore|run|save|set|split|start|stay|take|try'
    r'|use|write)\b|((it|they|a pair|names) )?(must|needs?|wants)\b', re.IGNORECASE)
SEE_THROUGH = ('join', 'tuple', 'sorted', 'type', 'reversed', 'next', 'get', 'size')  # calls that show their argument


def modules():
    """{dotted name: Path} of every module of the packages, packages as themselves."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob('*.py')):
            parts = path.relative_to(ROOT).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


@lru_cache
def _parse(path, changed):
    text = path.read_text(encoding='utf-8')
    return text, ast.parse(text)


def parse(path):
    """(text, syntax tree) of a Python file, kept until the file changes."""
    return _parse(path, path.stat().st_mtime_ns)


def definition(path, name):
    """The source of a function, class or constant, ``name`` or ``Class.name``, with its docstring.

    Raises:
        LookupError: The file defines nothing of that name.
    """
    text, node = parse(path)
    for part in name.split('.'):
        node = next((child for child in node.body if part in _names(child)), None)
        if node is None:
            raise LookupError(f'{path.relative_to(ROOT)} defines no {name}')
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, 'decorator_list', []))])
    lines = text.splitlines()[first - 1:node.end_lineno]
    return '\n'.join(line[node.col_offset:] for line in lines)


def _names(node):
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [getattr(node, 'name', None)]


def messages():
    """Every message an InputError is made with, by module and line."""
    found = []
    for module, path in modules().items():
        tree = parse(path)[1]
        constants = {node.targets[0].id: node.value.value for node in tree.body
                     if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
                     and isinstance(node.value, ast.Constant)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)
                 and getattr(node.func, 'id', getattr(node.func, 'attr', None)) == 'InputError']
        found += [Message(module, call.lineno, _template(call.args[0], constants)) for call in calls]
    return sorted(found)


def split_remedy(text):
    """(what is wrong, what to do): the second is the end of the message where it says so, or one of REMEDIES."""
    for cut in [match.start() for match in re.finditer(r'[.;:] ', text)]:
        wrong, remedy = text[:cut], text[cut + 2:].rstrip('.')
        if re.match(SAYS_WHAT_TO_DO, remedy):
            says_something = re.sub('‹[^›]*›', '', wrong).strip()
            return wrong if says_something else text.rstrip('.'), f'{remedy[0].upper()}{remedy[1:]}.'
    return text.rstrip('.'), next(remedy for pattern, remedy in REMEDIES if re.search(pattern, text))


def _template(node, constants):
    """The text of an expression, with ‹names› for its variable parts."""
    if isinstance(node, ast.JoinedStr):
        return ''.join(_template(value, constants) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return _template(node.value, constants)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left, constants) + _template(node.right, constants)
    if isinstance(node, ast.Name) and isinstance(constants.get(node.id), str):
        return constants[node.id]
    return f'‹{_label(node)}›'


def _label(node):
    """A word for an expression: the last name in it that a reader can make something of."""
    if isinstance(node, ast.Name):
        return node.id.strip('_').lower()
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Attribute):
        return 'name' if node.attr == '__name__' else _label(ast.Name(node.attr))
    if isinstance(node, ast.Subscript):
        named = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
        return node.slice.value if named else _label(node.value)
    if isinstance(node, ast.Call):
        name = _label(node.func)
        if name == 'len':
            return 'number'
        return _label(node.args[0]) if name in SEE_THROUGH and node.args else name
    return '…'
