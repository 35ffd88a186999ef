"""Loads ``bench.ladder.program`` with only what is switched on: a rung pays for no test of what it lacks.

Each module is parsed, the names of ``switches.py`` in it become the constants ``True`` and ``False``, and Python's own
compiler leaves out the branches that can't be reached.
"""

import ast
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Collection, Sequence
from types import CodeType, ModuleType

from bench.ladder import switches

PROGRAM = "bench.ladder.program"
NAMES = frozenset(name for name in vars(switches) if name.isupper())


def install(on: Collection[str]) -> None:
    """Have the program's modules, none of which may be loaded yet, folded with these switches on, all others off."""
    unknown = sorted(set(on) - NAMES)
    if unknown:
        raise ValueError(f"there is no switch {unknown[0]}; there are {', '.join(sorted(NAMES))}")
    loaded = [name for name in sys.modules if name.startswith(f"{PROGRAM}.")]
    if loaded:
        raise ValueError(f"{loaded[0]} is loaded already")
    sys.meta_path.insert(0, _Finder(frozenset(on)))


def folded(source: str, path: str, on: Collection[str]) -> CodeType:
    """Compile source with switches on or off for good."""
    tree = _Folder(on).visit(ast.parse(source, path))
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Folder(ast.NodeTransformer):
    def __init__(self, on: Collection[str]) -> None:
        self._on = on

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in NAMES and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Constant(node.id in self._on), node)
        return node


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, on: Collection[str]) -> None:
        super().__init__(name, path)
        self._on = on

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return folded(self.get_data(path).decode(), path, self._on)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, on: Collection[str]) -> None:
        self._on = on

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{PROGRAM}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._on)
        return spec
