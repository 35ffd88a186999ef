"""Schemas made for tests: a filter of one's own, and the packaged schema without some fields."""

from google.protobuf import descriptor_pb2

from xds.schema.union import File, SchemaSource
from xds.schema_files import packaged_source

FILTER = "acme.filters.v1.Greeting"
_FIELD = descriptor_pb2.FieldDescriptorProto


def own_filter(*imports: str) -> File:
    """Return the file of ``acme.filters.v1.Greeting``: a text, and a duration."""
    file = File(name="acme/filters/v1/greeting.proto", package="acme.filters.v1", syntax="proto3")
    file.dependency.extend(["google/protobuf/duration.proto", *imports])
    message = file.message_type.add(name="Greeting")
    message.field.add(name="text", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    message.field.add(
        name="pause",
        number=2,
        type=_FIELD.TYPE_MESSAGE,
        label=_FIELD.LABEL_OPTIONAL,
        type_name=".google.protobuf.Duration",
    )
    return file


def older_api(version: str, *, lacks: tuple[str, ...]) -> SchemaSource:
    """Return the packaged API as an older Envoy would have it: without these fields (``package.Message.field``)."""
    files = []
    for original in packaged_source().files:
        file = File.FromString(original.SerializeToString())
        for message in file.message_type:
            prefix = f"{file.package}.{message.name}."
            kept = [field for field in message.field if prefix + field.name not in lacks]
            if len(kept) != len(message.field):
                copies = [_FIELD.FromString(field.SerializeToString()) for field in kept]
                del message.field[:]
                message.field.extend(copies)
        files.append(file)
    return SchemaSource(f"envoy-{version}", tuple(files), version)
