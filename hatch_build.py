"""Build hook: write the Envoy descriptor set and compile our own protos into ``xds/_generated``.

It runs in the build backend's isolated environment, which has ``xds-protos`` and ``grpcio-tools``; neither is needed
at run time.
"""

import importlib
import pathlib
import sys
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OWN_PROTOS = "xds_control_plane"


class SchemaBuildHook(BuildHookInterface[Any]):
    """Generates ``envoy.binpb`` (a FileDescriptorSet) and the ``*_pb2`` modules of ``protos/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = pathlib.Path(self.root)
        out = root / "xds" / "_generated"
        out.mkdir(exist_ok=True)
        (out / "__init__.py").write_text('"""Built from protos/ and the Envoy API by hatch_build.py."""\n')
        self._write_envoy_descriptors(root, out / "envoy.binpb")
        self._compile_own_protos(root / "protos", out)

    def _write_envoy_descriptors(self, root: pathlib.Path, target: pathlib.Path) -> None:
        # Our package is called xds too: it must not shadow that of xds-protos here.
        sys.path[:] = [entry for entry in sys.path if entry and pathlib.Path(entry).resolve() != root]
        import envoy
        from google.protobuf import descriptor_pb2

        files: dict[str, Any] = {}

        def add(file: Any) -> None:
            if file.name not in files:
                for dependency in file.dependencies:
                    add(dependency)
                files[file.name] = file

        site = pathlib.Path(envoy.__file__).parent.parent
        # Typed configs come from xds/ and udpa/ too; Envoy's own files do not import all of those.
        for pattern in ("envoy/**/v3/*_pb2.py", "xds/**/*_pb2.py", "udpa/**/*_pb2.py"):
            for path in sorted(site.glob(pattern)):
                module = ".".join(path.relative_to(site).with_suffix("").parts)
                add(importlib.import_module(module).DESCRIPTOR)
        descriptor_set = descriptor_pb2.FileDescriptorSet()
        for file in files.values():
            file.CopyToProto(descriptor_set.file.add())
        target.write_bytes(descriptor_set.SerializeToString())

    def _compile_own_protos(self, protos: pathlib.Path, out: pathlib.Path) -> None:
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
