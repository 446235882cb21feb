"""A Jinja environment for templates of strangers: few names, no way out, limited results.

Jinja's own immutable sandbox keeps a template from Python's internals. It does not keep it from
filling the memory, so here operators, comparisons, slices and methods run through `operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Template, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from sssd_local.chat import operations
from sssd_local.chat.filters import FILTERS, TESTS
from sssd_local.chat.limits import as_text, measure, tick

MAX_SOURCE_BYTES = 1 << 20
# Python's compiler cannot be interrupted; the largest of 71 known templates has 1300 nodes.
MAX_NODES = 10_000
MAX_DATE_FORMAT = 100
LARGE_LITERAL = 16

_VALUES = (str, dict, list, tuple)
# What compiled templates pass with every call inside of a loop or block.
_SCOPES = ("_loop_vars", "_block_vars")
_LOADING = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)

_TEXT_ATTRIBUTES = """capitalize casefold center count endswith find index isalnum isalpha isascii
    isdecimal isdigit isidentifier islower isnumeric isspace istitle isupper join ljust lower lstrip
    partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split
    splitlines startswith strip swapcase title upper zfill"""
_LOOP_ATTRIBUTES = """changed cycle depth depth0 first index index0 last length nextitem previtem
    revindex revindex0"""
_ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (str, frozenset(_TEXT_ATTRIBUTES.split())),
    (dict, frozenset(("copy", "get", "items", "keys", "values"))),
    (list, frozenset(("copy", "count", "index"))),
    (tuple, frozenset(("count", "index"))),
    (LoopContext, frozenset(_LOOP_ATTRIBUTES.split())),
    (Macro, frozenset(("arguments", "name"))),
)


class Refusal(Exception):  # noqa: N818 - the template's own words
    """A template called `raise_exception`."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Set up as Hugging Face's and llama.cpp's chat templates expect (transformers,
    utils/chat_template_utils.py); to be used while a Budget is enforced."""

    intercepted_binops = operations.BINARY_OPERATORS

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=as_text,
            extensions=[GenerationTag, LoopControlExtension],
        )
        self.filters = {**FILTERS, **_HIDDEN}
        self.tests = dict(TESTS)
        self.globals = {
            "range": self.globals["range"],
            "dict": _new_dict,
            "namespace": _new_namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def load(self, source: str) -> Template:
        """Compiles a template; raises Jinja's TemplateSyntaxError or SecurityError."""
        if len(source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
            raise SecurityError(f"a template of more than {MAX_SOURCE_BYTES >> 20} MiB")
        tree = self.parse(source)
        tick()
        _check_tree(tree)
        tree = _Bounding().visit(tree)
        tick()
        tree.set_environment(self)
        code = self.compile(tree, filename="<chat template>")
        return Template.from_code(self, code, dict(self.globals))

    def concat(self, parts: Iterable[str]) -> str:
        """Joins the output of a macro or block."""
        return operations.join_texts(list(parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Runs every arithmetic operator."""
        return operations.binary(operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Runs every call; arguments of methods are limited, as they may be compared or hashed."""
        tick()
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, _VALUES):
            named = {name: kwargs[name] for name in kwargs if name not in _SCOPES}
            return operations.call_method(obj, *args, **named)
        if isinstance(obj, MethodType):
            for argument in args:
                measure(argument)
        return super().call(context, obj, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`."""
        if isinstance(obj, str) and attribute in ("format", "format_map"):
            return operations.formatter(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`."""
        operations.key(argument)
        if isinstance(obj, str) and isinstance(argument, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only attributes that are known to be harmless."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, Namespace):
            return True
        return any(isinstance(obj, kind) and attr in names for kind, names in _ATTRIBUTES)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Unlike Jinja's, fails also when it is only written out."""
        message = f"access to {attribute!r} of a {type(obj).__name__}"
        return StrictUndefined(message, obj=obj, name=attribute, exc=SecurityError)


class GenerationTag(Extension):
    """`{% generation %}`, which marks answers for training; only its content matters here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Reads up to `{% endgeneration %}`."""
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_tree(tree: nodes.Template) -> None:
    waiting: list[nodes.Node] = [tree]
    num_nodes = 0
    while waiting:
        node = waiting.pop()
        num_nodes += 1
        if num_nodes > MAX_NODES:
            raise SecurityError(f"a template of more than {MAX_NODES} parts")
        if isinstance(node, _LOADING):
            raise SecurityError(f"loading another template (line {node.lineno})")
        waiting.extend(node.iter_child_nodes())


class _Bounding(NodeTransformer):
    """Sends operations that Jinja compiles to bare Python through filters of the environment."""

    def _filter(self, node: nodes.Expr, name: str, *args: nodes.Expr | None) -> nodes.Filter:
        arguments = [nodes.Const(None) if argument is None else argument for argument in args]
        return nodes.Filter(node, name, arguments, [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        look = self._filter(nodes.Const(None), "=tick")
        node.body.insert(0, nodes.ExprStmt(look, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), "=concatenate")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        rest = [part for operand in node.ops for part in (nodes.Const(operand.op), operand.expr)]
        return self._filter(node.expr, "=compare", *rest)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return self._filter(node.node, "=cut", node.arg.start, node.arg.stop, node.arg.step)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = self._filter(pair.key, "=key")
        return self._literal(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._literal(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._literal(node) if node.ctx == "load" else node

    def _literal(self, node: nodes.Dict | nodes.List | nodes.Tuple) -> nodes.Expr:
        return self._filter(node, "=literal") if len(node.items) > LARGE_LITERAL else node


# A template could only name these in `map`, where they do no harm.
_HIDDEN: dict[str, Callable[..., Any]] = {
    "=concatenate": operations.concatenate,
    "=compare": operations.compare,
    "=cut": operations.cut,
    "=key": operations.key,
    "=literal": operations.literal,
    "=tick": tick,
}


def _new_dict(*args: Any, **values: Any) -> dict[Any, Any]:
    for argument in args:
        if not isinstance(argument, Mapping):
            raise TypeError("dict() takes names and values")
    return dict(*args, **values)


def _new_namespace(*args: Any, **values: Any) -> Namespace:
    return Namespace(_new_dict(*args, **values))


def _raise_exception(message: Any) -> None:
    raise Refusal(as_text(message))


def _strftime_now(text: str) -> str:
    if len(text) > MAX_DATE_FORMAT or operations.pads_widely(text):
        raise SecurityError("a date format that is too long")
    return datetime.now().strftime(text)
