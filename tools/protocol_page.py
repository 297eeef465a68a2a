"""Write docs/protocol.md from the message types of `zerrow_store.protocol`.

Everything on the page but its introduction comes from the source: fields and bounds from the
annotations, explanations from the docstrings. A test fails while the page is not what this makes of
the source.

    python tools/protocol_page.py
"""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from zerrow_store import protocol
from zerrow_store.protocol import framing

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"

_INTRODUCTION = f"""# Protocol

<!-- Generated from zerrow_store/protocol; `python tools/protocol_page.py` writes it again. -->

What a process and the node store of its machine say to each other. Both ends are of the same
release, and of version {framing.PROTOCOL_VERSION} of the protocol: a connection whose `hello` names
another one is refused. Data never travels this way, only descriptors and
[messages that refer to bytes](sipc.md).

**Frames.** A store listens on an abstract Unix socket. A frame is a little-endian header
(`uint32` length of the payload, `uint16` number of descriptors) and a msgpack array
`[kind, request id, body]`. Descriptors travel by `SCM_RIGHTS` with the frame's first byte. A
request has at most {framing.MAX_REQUEST >> 20} MiB, every other frame {framing.MAX_FRAME >> 30}
GiB and {framing.MAX_DESCRIPTORS} descriptors.

**Exchange.** The first request of a connection is `hello`. The store answers each request whose
id is not 0 with a frame of the same id: of kind `reply`, whose body is the result, or of kind
`error`, whose body is the name of a class of `zerrow_store.errors` and the arguments of its
constructor. A request that is malformed, or that cannot be done, is answered with an error and
has changed nothing. A peer that breaks the framing, or does not read, is disconnected. Notices
come from the store unasked and have no answer.

**Messages.** The body of a message is a msgpack array of its fields, in the order given here.
Fields with a default may be left out at the end. Everything is checked before a handler sees it:
types, bounds, and that nothing is left over.
"""

_SECTION = re.compile(r"^(Parameters|Attributes)\n-+\n", re.MULTILINE)
_ITEM = re.compile(r"^(\w+(?:, \w+)*)(?: : .*)?\n((?:    .*\n?|\n)+)", re.MULTILINE)


def render() -> str:
    """Return the page: requests first, then what the other modules have."""
    names = [found.name for found in pkgutil.iter_modules(protocol.__path__)]
    modules = [
        _Module(importlib.import_module(f"{protocol.__name__}.{name}"))
        for name in sorted(names, key=lambda name: (name != "messages", name))
    ]
    parts = [_INTRODUCTION]
    for module in modules:
        parts += module.sections()
    used = {name for module in modules for name in module.names_used()}
    rows = [row for module in modules for row in module.types(used)]
    parts += ["## Types\n", "| name | type | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(parts)


class _Module:
    """The messages of one module, with their source."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._tree = ast.parse(inspect.getsource(module))
        nodes = [node for node in self._tree.body if isinstance(node, ast.ClassDef)]
        self._nodes = {node.name: node for node in nodes}
        self._classes = {
            name: found
            for name in self._nodes
            if isinstance(found := getattr(module, name), type)
            and issubclass(found, msgspec.Struct)
        }

    def sections(self) -> Iterator[str]:
        """Yield the groups of messages, each below its base class, then what they are made of."""
        grouped: set[str] = set()
        for base in self._classes:
            if members := self._members(base):
                yield f"## {_plural(base)}\n"
                yield from self._description(base)
                for name in members:
                    yield from self._message(name)
                grouped.update(members)
        rest = [n for n, c in self._classes.items() if n not in grouped and not c.__subclasses__()]
        if rest:
            yield "## Parts of messages\n"
            for name in rest:
                yield from self._message(name)

    def names_used(self) -> set[str]:
        """Return the names in the annotations of messages, and in the types these are made of."""
        nodes = [self._nodes[name] for name in self._classes]
        aliases = [node for node in self._tree.body if isinstance(node, ast.Assign)]
        return {
            each.id
            for node in [*nodes, *aliases]
            for each in ast.walk(node)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
        }

    def types(self, used: set[str]) -> Iterator[str]:
        """Yield a row for each name that stands for a type, with the text below it."""
        for at, node in enumerate(self._tree.body):
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
                continue
            name = node.targets[0].id
            if name not in used or name.isupper() or not isinstance(node.value, ast.Subscript):
                continue
            below = self._tree.body[at + 1]
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = " ".join(str(below.value.value).split())
            yield f"| `{name}` | `{self._describe(node.value)}` | {text} |"

    def _members(self, base: str) -> list[str]:
        return [n for n, c in self._classes.items() if self._classes[base] in c.__bases__]

    def _message(self, name: str) -> Iterator[str]:
        yield f"### `{getattr(self._classes[name], 'kind', name)}`\n"
        meanings = yield from self._description(name)
        fields = list(self._fields(name))
        if fields:
            yield (
                "| field | type | default | meaning |" if meanings else "| field | type | default |"
            )
            yield "|---|---|---|---|" if meanings else "|---|---|---|"
            for field, annotation, default in fields:
                row = f"| `{field}` | {annotation} | {default} |"
                yield f"{row} {meanings.get(field, '')} |" if meanings else row
            yield ""
        for what, value in self._facts(name):
            yield f"{what.capitalize()}: `{value}`.\n"

    def _description(self, name: str) -> Iterator[str]:
        """Yield a docstring's prose; return what it says of single fields."""
        text = inspect.cleandoc(ast.get_docstring(self._nodes[name]) or "") + "\n"
        prose, *sections = re.split(_SECTION, text)
        meanings = {}
        for section in sections[1::2]:
            for names, meaning in _ITEM.findall(section):
                for field in names.split(", "):
                    meanings[field] = " ".join(meaning.split())
        yield prose.strip() + "\n"
        return meanings

    def _fields(self, name: str) -> Iterator[tuple[str, str, str]]:
        for node in self._nodes[name].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                annotation = self._describe(node.annotation)
                if not annotation.startswith("ClassVar"):
                    default = ast.unparse(node.value) if node.value else ""
                    default = default.replace("msgspec.field(default_factory=list)", "[]")
                    default = f"`{default}`" if default else ""
                    yield node.target.id, f"`{annotation}`", default

    def _facts(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield what holds for all messages of a kind: class variables, and properties."""
        for node in self._nodes[name].body:
            if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
                if node.decorator_list and node.body[-1].value is not None:
                    yield node.name, ast.unparse(node.body[-1].value).replace("self.", "")
            elif (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and node.value is not None
                and ast.unparse(node.annotation).startswith("ClassVar")
                and node.target.id != "kind"
            ):
                yield node.target.id, re.sub(r"\b[a-z]+\.", "", ast.unparse(node.value))

    def _describe(self, node: ast.expr) -> str:
        """Return a type as it is read: with its bounds in words."""
        if isinstance(node, ast.BinOp):
            return f"{self._describe(node.left)} or {self._describe(node.right)}"
        if not isinstance(node, ast.Subscript):
            return ast.unparse(node)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        outer = ast.unparse(node.value)
        if outer == "Annotated":
            return self._describe(inner[0]) + _bounds(self._value(inner[1]))
        if outer == "Literal":
            return " or ".join(ast.unparse(each) for each in inner)
        return f"{outer}[{', '.join(map(self._describe, inner))}]"

    def _value(self, node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), vars(self._module))


def _bounds(meta: msgspec.Meta) -> str:
    least, most = meta.min_length, meta.max_length
    if least is not None and least == most:
        return f" of {least}"
    if most is not None:
        return f" of at most {most}" if least is None else f" of {least} to {most}"
    if least is not None:
        return f" of at least {least}"
    return f" from {meta.ge}" + (f" to {_number(meta.le)}" if meta.le is not None else "")


def _number(number: float) -> str:
    if isinstance(number, int) and number > 1024 and number & (number - 1) == 0:
        return f"2^{number.bit_length() - 1}"
    return f"{number:g}" if isinstance(number, float) else str(number)


def _plural(name: str) -> str:
    return name[:-1] + "ies" if name.endswith("y") else name + "s"


if __name__ == "__main__":
    PAGE.write_text(render())
