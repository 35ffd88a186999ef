"""The public names of ``xds.embed`` and ``xds.client``, with their signatures, are those of ``public_names.txt``.

What is public, and when it may change, is written in ``xds/embed.py``. Where a change is meant, write the list again:

    .venv/bin/python tests/test_public_names.py > tests/public_names.txt
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import xds.client
import xds.embed

LIST = Path(__file__).parent / "public_names.txt"
HOW = "if that is meant, say so in CHANGELOG.md, and write the list again: see the docstring of test_public_names.py"
MODULES = (xds.embed, xds.client)
CONSTRUCTED = {"About", "Address", "Client", "ControlPlane", "GroupTable", "Rule", "Settings"}
"""Classes that callers make objects of. Those of others are handed to them, so their constructors are not public."""
INTERNAL = {"GroupTable": {"kept", "rules_kept"}}
"""Fields of public classes that are not public."""
ENTERED = ("__aenter__", "__call__")
"""Special methods that callers use by syntax."""


def listing() -> str:
    lines = []
    for module in MODULES:
        lines.append(module.__name__)
        for name in sorted(module.__all__):
            lines += [f"  {line}" for line in described(name, getattr(module, name))]
    return "\n".join(lines) + "\n"


def described(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield name + (signature_of(value) if callable(value) else f": {type(value).__name__}")
        return
    bases = [base.__name__ for base in value.__bases__ if base is not object and not issubclass(value, BaseModel)]
    yield f"class {name}" + (f"({', '.join(bases)})" if bases else "")
    if issubclass(value, BaseModel):
        yield from (f"  {path}: {kind}" for path, kind in settings_of(value))
        return
    if name in CONSTRUCTED:
        yield f"  __init__{signature_of(value, without=INTERNAL.get(name, set()))}"
    for member, kind in members(value):
        yield f"  {member}{kind}"


def members(value: type) -> Iterator[tuple[str, str]]:
    """Yield the public members that a class has of itself, or of a base that is not public: fields, then the others."""
    fields: dict[str, str] = {}
    found: dict[str, str] = {}
    public = {getattr(module, name) for module in MODULES for name in module.__all__ if name[0] != "_"}
    for owner in reversed(value.__mro__):
        if not owner.__module__.startswith("xds.") or (owner is not value and owner in public):
            continue
        for name, kind in inspect.get_annotations(owner, eval_str=True).items():
            fields[name] = f": {spelt(kind)}"
        for name, member in vars(owner).items():
            if isinstance(member, property):
                assert member.fget is not None
                found[name] = f": {spelt(inspect.get_annotations(member.fget, eval_str=True)['return'])} (property)"
            elif isinstance(member, classmethod):
                found[name] = signature_of(member.__func__) + " (class method)"
            elif inspect.isfunction(member):
                found[name] = signature_of(member) + (" (coroutine)" if inspect.iscoroutinefunction(member) else "")
    for name, text in (*fields.items(), *sorted(found.items())):
        if (name[0] != "_" or name in ENTERED) and name not in INTERNAL.get(value.__name__, set()):
            yield name, text


def settings_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting by its dotted name, and its type. Defaults are not listed: they may change."""
    for name, field in section.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, spelt(field.annotation)


def signature_of(function: Any, *, without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    signature = inspect.signature(function, eval_str=True)
    kept = [each for name, each in signature.parameters.items() if name not in without]
    return spelt(signature.replace(parameters=kept))


def spelt(annotation: Any) -> str:
    """Write a type or a signature without the modules that its names are defined in."""
    if typing.get_origin(annotation) is typing.Annotated:
        return spelt(annotation.__origin__)
    if typing.get_origin(annotation) is typing.Union:
        return " | ".join(map(spelt, typing.get_args(annotation)))
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return "None" if annotation is type(None) else annotation.__name__
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", str(annotation))


def test_the_public_names_are_those_of_the_list() -> None:
    assert listing() == LIST.read_text(), HOW


def named(annotation: Any) -> Iterator[type]:
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from named(part)


def annotations_of(value: Any) -> Iterator[Any]:
    """Yield the types in the signatures and attributes that are public of a name."""
    if not inspect.isclass(value):
        yield from inspect.get_annotations(value, eval_str=True).values() if callable(value) else ()
        return
    yield from inspect.get_annotations(value, eval_str=True).values()
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        is_public = name[0] != "_" or name in ENTERED or (name == "__init__" and value.__name__ in CONSTRUCTED)
        if is_public and inspect.isfunction(function):
            yield from inspect.get_annotations(function, eval_str=True).values()


def test_whatever_a_public_name_takes_or_gives_is_public_too() -> None:
    """But for the sections of the settings, which are given as dicts."""
    public = {getattr(module, name) for module in MODULES for name in module.__all__ if name[0] != "_"}
    missing = {
        f"{value.__name__}: {kind.__module__}.{kind.__name__}"
        for value in public
        for annotation in annotations_of(value)
        for kind in named(annotation)
        if kind.__module__.startswith("xds.") and kind not in public and not issubclass(kind, BaseModel)
    }
    assert missing == set()


def own_attributes(value: type) -> set[str]:
    """Return the public attributes that ``__init__`` gives an object."""
    made = vars(value).get("__init__")
    if made is None or dataclasses.is_dataclass(value):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(made)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr[0] != "_"
    }


def test_every_public_attribute_is_declared_so_that_the_list_has_it() -> None:
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and value.__module__.startswith("xds."):
                assert own_attributes(value) <= inspect.get_annotations(value).keys(), name


def test_problems_are_of_one_class_whichever_module_it_is_imported_from() -> None:
    assert xds.embed.Problem is xds.client.Problem


def test_xds_itself_is_an_empty_file() -> None:
    """Another package may write it again, or take it away (``test_beside_xds_protos.py``)."""
    assert (Path(xds.embed.__file__).parent / "__init__.py").read_bytes() == b""


if __name__ == "__main__":
    print(listing(), end="")
