"""Lua scripts that compile a pushed one and do not run it: Envoy runs a script as it reads its configuration."""

from collections.abc import Sequence

BYTECODE = b"\x1b"
"""How a compiled script begins. LuaJIT does not verify one."""
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ")
_SCRIPT = """local text = "{text}"
local made, words = load(text, text, "t")
if not made then error(words, 0) end
{functions}"""


def is_bytecode(source: bytes) -> bool:
    """Return whether LuaJIT reads a script as a compiled one."""
    return source.startswith(BYTECODE)


def compiled_only(source: bytes, functions: Sequence[str] = ()) -> str:
    """Return a script that fails with Lua's words, and their line, if ``source`` does not compile. It never runs it.

    It has empty ``functions``, without which Envoy refuses a script. Envoy reads a script up to its first NUL.
    """
    text = "".join(chr(each) if each in _PLAIN else f"\\{each:03d}" for each in source.partition(b"\0")[0])
    return _SCRIPT.format(text=text, functions="".join(f"function {name}() end\n" for name in functions))
