"""Build the peers into ``bench/peers/build``, which git ignores: ``python bench/peers/build.py [go|java ...]``.

A toolchain that is missing is a ToolchainMissingError, a build that fails a BuildError; both say what to do.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent
BUILD = PEERS / "build"
BUILD_TIMEOUT_S = 540
GO = "go-control-plane"
JAVA = "java-control-plane"


class ToolchainMissingError(Exception):
    """What a peer is built with is not on this machine."""


class BuildError(Exception):
    """A peer does not build. The text ends with what the build tool said."""


def build_go() -> Path:
    """Build the Go peer and return its binary. Raises ToolchainMissingError and BuildError."""
    _need("go", "install Go (https://go.dev/dl), and put `go` on the PATH")
    binary = BUILD / GO
    _run(["go", "build", "-trimpath", "-buildvcs=false", "-o", str(binary), "."], GO)
    return binary


def build_java() -> Path:
    """Build the Java peer, if a source is newer, and return its jar. Raises ToolchainMissingError and BuildError."""
    _need("javac", "install a JDK of version 17 or newer (Debian: openjdk-17-jdk-headless)")
    _need("mvn", "install Maven (Debian: maven)")
    sources = [PEERS / JAVA / "pom.xml", *(PEERS / JAVA / "src").rglob("*.java")]
    jar = BUILD / "java" / "peer.jar"
    if not jar.exists() or jar.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        _run(["mvn", "--quiet", "--batch-mode", f"-Dpeer.build={BUILD / 'java'}", "clean", "package"], JAVA)
    return jar


BUILDERS = {"go": build_go, "java": build_java}
"""Each language's name to what builds its peer."""


def versions() -> dict[str, str]:
    """Return the versions of the toolchains that are here, and of what the peers are made of."""
    found = {}
    for tool, argv in (("Go", ["go", "version"]), ("Java", ["java", "-version"])):
        if shutil.which(argv[0]) is not None:
            said = subprocess.run(argv, capture_output=True, text=True, check=False)
            found[tool] = (said.stdout or said.stderr).splitlines()[0]
    modules = dict(re.findall(r"^\t(\S+) (v\S+)$", (PEERS / GO / "go.mod").read_text(), re.MULTILINE))
    properties = dict(re.findall(r"<(\S+)\.version>(\S+)</", (PEERS / JAVA / "pom.xml").read_text()))
    found["go-control-plane"] = modules["github.com/envoyproxy/go-control-plane"]
    found["grpc-go"] = modules["google.golang.org/grpc"]
    found["java-control-plane"] = properties["control-plane"]
    found["grpc-java"] = properties["grpc"]
    return found


def _need(tool: str, what_to_do: str) -> None:
    if shutil.which(tool) is None:
        raise ToolchainMissingError(f"no {tool}: {what_to_do}")


def _run(argv: list[str], peer: str) -> None:
    BUILD.mkdir(exist_ok=True)
    try:
        subprocess.run(
            argv,
            cwd=PEERS / peer,
            check=True,
            timeout=BUILD_TIMEOUT_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except subprocess.CalledProcessError as error:
        raise BuildError(f"`{' '.join(argv)}` failed in {PEERS / peer}:\n{error.stdout[-4_000:]}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"`{' '.join(argv)}` in {PEERS / peer} took longer than {BUILD_TIMEOUT_S} s") from None


def main() -> int:
    """Build the peers that are asked for, or all; return 1 if one could not be."""
    failed = False
    for language in sys.argv[1:] or BUILDERS:
        if language not in BUILDERS:
            print(f"{language!r} is no peer; there are {', '.join(BUILDERS)}", file=sys.stderr)
            return 2
        try:
            print(BUILDERS[language]())
        except (ToolchainMissingError, BuildError) as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
