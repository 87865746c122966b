"""Find the boto3 calls that a function of ours can reach, by reading the source; nothing is run.

The result may contain too many calls: a method called on an object of unknown class counts as the method of
that name of every class that the function makes somewhere.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PACKAGES = ("cxr", "ec2_runner", "handlers", "pipeline", "web")
_LOCAL = {  # adapters that AWS Lambda never chooses
    "pipeline.store.folder",
    "pipeline.worklist.database",
    "pipeline.worklist.sqlite",
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class _Module:
    functions: dict[str, _Function] = field(default_factory=dict)
    classes: dict[str, dict[str, _Function]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)  # meaning of a name: module, name


@dataclass(frozen=True)
class Place:
    """Name a function, or a method of a class."""

    module: str
    name: str
    owner: str = ""


def calls(entries: tuple[str, ...], names: frozenset[str], made: str = "") -> dict[str, set[Place]]:
    """Return which of these method names can be reached, and where they are called.

    An entry is a function, `module.function`, or a class, of which all methods are called. Objects of the
    class `made` exist.
    """
    search = _Search()
    if made:
        search.add(*made.rsplit(".", 1))
    for entry in entries:
        search.enter(*entry.rsplit(".", 1))
    search.run()
    found: dict[str, set[Place]] = {}
    for place in search.reached:
        for word in _words(_node(place)):
            if word in names:
                found.setdefault(word, set()).add(place)
    return found


class _Search:
    def __init__(self) -> None:
        self.reached: set[Place] = set()
        self._made: set[tuple[str, str]] = set()  # classes
        self._called: set[str] = set()  # methods of objects of unknown class
        self._open: list[Place] = []

    def run(self) -> None:
        while True:
            while self._open:
                self._read(self._open.pop())
            for module, owner in list(self._made):
                for name in _modules()[module].classes[owner]:
                    if name in self._called or name.startswith("__"):
                        self._reach(Place(module, name, owner))
            if not self._open:
                return

    def enter(self, module: str, name: str) -> None:
        """Start from a function, or from all methods of a class."""
        self.add(module, name)
        for method in _modules()[module].classes.get(name, {}):
            self._reach(Place(module, method, name))

    def add(self, module: str, name: str) -> None:
        """Handle a used name of a module: call the function, make the class, or follow the import."""
        known = _modules().get(module)
        if known is None:
            return
        if name in known.functions:
            self._reach(Place(module, name))
        elif name in known.classes:
            self._made.add((module, name))
        elif name in known.imported:
            self.add(*known.imported[name])

    def _reach(self, place: Place) -> None:
        if place not in self.reached:
            self.reached.add(place)
            self._open.append(place)

    def _read(self, place: Place) -> None:
        nodes = list(_code(_node(place)))
        data = {part for node in nodes for part in _parts(node)}
        for node in nodes:
            if isinstance(node, ast.Name):
                self.add(place.module, node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in data:
                self._attribute(place, node)

    def _attribute(self, place: Place, node: ast.Attribute) -> None:
        module = _modules()[place.module]
        if isinstance(node.value, ast.Name):
            source, name = module.imported.get(node.value.id, ("", ""))
            if f"{source}.{name}" in _modules():
                self.add(f"{source}.{name}", node.attr)
                return
            if node.value.id == "self" and node.attr in module.classes.get(place.owner, {}):
                self._reach(Place(place.module, node.attr, place.owner))
                return
        self._called.add(node.attr)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield nodes that are compared or have an attribute: `ports.host` in `ports.host.run` is no method."""
    return ast.iter_child_nodes(node) if isinstance(node, ast.Attribute | ast.Compare) else iter(())


def _words(function: _Function) -> Iterator[str]:
    """Yield the names of called functions, and of methods used as attributes or passed on as text."""
    for node in _code(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _code(function: _Function) -> Iterator[ast.AST]:
    """Yield the code of a function without its annotations, which make no objects."""
    for statement in function.body:
        yield from ast.walk(statement)


def _node(place: Place) -> _Function:
    module = _modules()[place.module]
    return module.classes[place.owner][place.name] if place.owner else module.functions[place.name]


@cache
def _modules() -> dict[str, _Module]:
    return {
        name: _parsed(path)
        for package in _PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (name := ".".join(path.relative_to(ROOT).with_suffix("").parts)) not in _LOCAL
    }


def _parsed(path: Path) -> _Module:
    tree, module = ast.parse(path.read_text(encoding="utf-8")), _Module()
    for node in tree.body:
        if isinstance(node, _Function):
            module.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            module.classes[node.name] = {item.name: item for item in node.body if isinstance(item, _Function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module.imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return module
