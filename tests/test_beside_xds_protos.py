"""Installed beside ``xds-protos``, in either order, both work; and each goes on working when the other is uninstalled.

PyPI's ``xds-protos``, which ``grpcio-csds`` and ``grpcio-admin`` need, has Envoy's generated API and an empty
``xds/__init__.py``. So has our wheel: whichever is installed later writes the same file again, and whichever is
uninstalled first takes it away. The packages come from PyPI by way of uv's cache. Without a network the tests fail with
what uv says of it.
"""

import json
import sys
import zipfile
from pathlib import Path

import pytest
from support.wheel import UV, build_wheel, make_environment, run

OURS, THEIRS = "xds-control-plane", ("grpcio-csds", "xds-protos")
PROGRAM = Path(__file__).parent / "support" / "beside_xds_protos.py"
SHARED = "xds/__init__.py"

pytestmark = pytest.mark.slow


class Environment:
    """A virtual environment, and the tool that uninstalls from it."""

    def __init__(self, directory: Path, wheel: Path, uninstaller: str) -> None:
        self._directory, self._wheel, self._uninstaller = directory, wheel, uninstaller
        self._python = make_environment(directory / "venv")
        self.shared = next((directory / "venv" / "lib").glob("python*/site-packages")) / SHARED

    def install_ours(self) -> None:
        self._uv("install", self._wheel)

    def install_theirs(self) -> None:
        self._uv("install", THEIRS[0])

    def uninstall(self, *packages: str) -> None:
        if self._uninstaller == "uv":
            self._uv("uninstall", *packages)
        else:
            pip = (sys.executable, "-m", "pip", "--python", self._python, "--disable-pip-version-check")
            run(*pip, "uninstall", "--yes", *packages, cwd=self._directory)

    def _uv(self, verb: str, *packages: str | Path) -> None:
        run(UV, "pip", verb, "--python", self._python, *packages, cwd=self._directory)

    def embeds(self, packages: str) -> str:
        """Run the program that embeds the control plane; every warning is an error."""
        return run(self._python, "-P", "-W", "error", PROGRAM, packages, cwd=self._directory)

    def imports(self, *modules: str) -> None:
        run(self._python, "-W", "error", "-c", f"import {', '.join(modules)}", cwd=self._directory)

    def version(self) -> str:
        """What the command ``xds version`` says of itself."""
        return run(self._python.parent / "xds", "version", cwd=self._directory).splitlines()[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def version(wheel: Path) -> str:
    return f"xds {wheel.name.split('-')[1]}"


@pytest.mark.parametrize(("first", "uninstaller"), [("ours", "uv"), ("theirs", "pip")])
def test_both_work_in_one_process_and_each_without_the_other(
    tmp_path: Path, wheel: Path, version: str, first: str, uninstaller: str
) -> None:
    environment = Environment(tmp_path, wheel, uninstaller)
    installs = [environment.install_ours, environment.install_theirs]
    for install in installs if first == "ours" else reversed(installs):
        install()
    imported = "xds,envoy" if first == "ours" else "envoy,xds"
    assert environment.embeds(imported) == "read back: web\n"
    assert environment.version() == version

    environment.uninstall(*THEIRS)
    assert not environment.shared.exists(), f"{uninstaller} left it: what is tested next is another case"
    assert environment.embeds("xds") == "read back: web\n"
    assert environment.version() == version

    environment.install_theirs()
    environment.uninstall(OURS)
    assert not environment.shared.exists(), f"{uninstaller} left it: what is tested next is another case"
    environment.imports("grpc_csds", "xds.core.v3.cidr_pb2", "envoy.config.cluster.v3.cluster_pb2")


def test_the_two_wheels_share_nothing_but_one_empty_file(tmp_path: Path, wheel: Path) -> None:
    """Nor would a module of ours shadow one of their packages, or the other way round."""
    python = make_environment(tmp_path / "venv")
    run(UV, "pip", "install", "--python", python, *THEIRS, cwd=tmp_path)
    asked = f"""
import importlib.metadata, json
print(json.dumps([str(path) for name in {THEIRS} for path in importlib.metadata.files(name)]))
"""
    theirs = set(json.loads(run(python, "-c", asked, cwd=tmp_path)))
    ours = zipfile.ZipFile(wheel)
    assert theirs & set(ours.namelist()) == {SHARED}
    assert ours.read(SHARED) == b""
    assert next((tmp_path / "venv" / "lib").glob("python*/site-packages")).joinpath(SHARED).read_bytes() == b""
    names = [
        {Path(path).parts[1].removesuffix(".py") for path in paths if path.startswith("xds/")} - {"__init__"}
        for paths in (theirs, ours.namelist())
    ]
    assert names[0] & names[1] == set()
