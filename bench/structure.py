"""The shape of the core beside h11, etcd's raft and go-control-plane: modules, lines, functions, cycles, writers.

``python bench/structure.py`` prints a Markdown table. h11 is the installed one; the Go modules are fetched by ``go mod
download``. Tests and generated files are left out. A module is a file, in Go too; a line is any line of a file; a
function's lines are those from its ``def`` or ``func`` to its end.
"""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parent.parent
RAFT = "go.etcd.io/raft/v3@v3.6.0"
GO_CONTROL_PLANE = "github.com/envoyproxy/go-control-plane@v0.14.0"
GO_FUNCTION = re.compile(r"^func .*?\{(?:[^\n]*\}$|.*?^\})", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Shape:
    """Lines of each module and of each function.

    ``cycles`` counts modules that import themselves by way of others, ``shared_fields`` names of fields that more than
    one module sets. Both are None for Go: the compiler allows no cycles, and fields are not looked at.
    """

    modules: list[int]
    functions: list[int]
    cycles: int | None = None
    shared_fields: int | None = None


def main() -> int:
    """Print the table."""
    h11 = find_spec("h11")
    assert h11 is not None
    assert h11.origin is not None
    raft, control_plane = go_module(RAFT), go_module(GO_CONTROL_PLANE)
    rows = {
        "`xds/protocol`": python_shape((ROOT / "xds/protocol").glob("*.py"), "xds.protocol"),
        "`xds/model`": python_shape((ROOT / "xds/model").glob("*.py"), "xds.model"),
        "`xds/transport/http2`": python_shape((ROOT / "xds/transport/http2").glob("*.py"), "xds.transport.http2"),
        "h11": python_shape(Path(h11.origin).parent.glob("*.py"), "h11"),
        RAFT.replace("@", " "): go_shape([*raft.glob("*.go"), *raft.glob("quorum/*.go"), *raft.glob("tracker/*.go")]),
        GO_CONTROL_PLANE.replace("@", " ") + " (cache, server)": go_shape(
            [*control_plane.glob("pkg/cache/v3/*.go"), *control_plane.glob("pkg/server/**/*.go")]
        ),
    }
    print("| code | modules | lines | largest | functions | median | p90 | max ", end="")
    print("| modules in import cycles | fields set by several modules |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, shape in rows.items():
        p90 = quantiles(shape.functions, n=10)[-1]
        cells = (len(shape.modules), sum(shape.modules), max(shape.modules), len(shape.functions))
        sizes = (f"{median(shape.functions):.0f}", f"{p90:.0f}", max(shape.functions))
        known = ("–" if shape.cycles is None else shape.cycles, "–" if shape.cycles is None else shape.shared_fields)
        print("|", " | ".join(map(str, (name, *cells, *sizes, *known))), "|")
    return 0


def python_shape(paths: Iterable[Path], package: str) -> Shape:
    """Measure Python modules; an empty ``__init__.py`` is not one."""
    modules, functions, edges, writers = [], [], {}, Counter[str]()
    for path in paths:
        text = path.read_text()
        if (path.name == "__init__.py" and text.count("\n") < 3) or path.name == "_version.py":
            continue
        tree = ast.parse(text)
        modules.append(text.count("\n"))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        functions += [(node.end_lineno or node.lineno) - node.lineno + 1 for node in found]
        for field in set(fields_set(tree)):
            writers[field] += 1
        edges[path.stem] = {name for name in imported(tree, package) if (path.parent / f"{name}.py").exists()}
    return Shape(modules, functions, len(cyclic(edges)), sum(number > 1 for number in writers.values()))


def fields_set(tree: ast.Module) -> Iterator[str]:
    """Yield the fields that a module sets, of its own objects or of others, but for what constructors set."""
    made = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    constructed = {id(node) for constructor in made for node in ast.walk(constructor)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            continue
        if id(node) not in constructed and not node.attr.startswith("_"):  # private ones are set by their class
            yield node.attr


def imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the modules of its own package that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level == 1 or source.startswith(package):
                yield source.removeprefix(package).strip(".").split(".")[0]
                yield from (alias.name for alias in node.names)


def cyclic(edges: dict[str, set[str]]) -> set[str]:
    """Return the modules that import themselves by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in edges.get(waiting.pop(), set()) - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    return {name for name in edges if name in reached(name)}


def go_module(version: str) -> Path:
    """Return where a Go module is kept, after fetching it."""
    argv = ["go", "mod", "download", "-json", version]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} failed: {done.stderr or done.stdout}")
    return Path(json.loads(done.stdout)["Dir"])


def go_shape(paths: Iterable[Path]) -> Shape:
    """Measure Go files that are neither tests nor generated."""
    modules, functions = [], []
    for path in paths:
        text = path.read_text()
        if path.name.endswith("_test.go") or "DO NOT EDIT" in text[:200]:
            continue
        modules.append(text.count("\n"))
        functions += [found.count("\n") + 1 for found in GO_FUNCTION.findall(text)]
    return Shape(modules, functions)


if __name__ == "__main__":
    sys.exit(main())
