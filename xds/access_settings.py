"""Settings for who may use the push API, and for the audit log."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from xds.setting_types import FilePath


class AccessSettings(BaseModel):
    """Who may use the push API, and the audit log. With any tokens or identities, callers must show one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_file: FilePath | None = None
    """The file of named tokens, which `xds tokens` writes. Default: STORE.tokens beside the store, once it exists."""
    identities_file: FilePath | None = None
    """A YAML file with the roles and groups of identities of certificates and OIDC tokens; reloaded when it changes."""
    audit: bool = True
    """Record changes, refusals and reads of secrets, where callers must show credentials or audit_file is given."""
    audit_file: FilePath | None = None
    """The file of the audit log. Default: STORE.audit, beside the store's file; without one, only the log has it."""
    audit_bytes_max: Annotated[int, Field(ge=64 * 1024, le=16 * 1024 * 1024 * 1024)] = 64 * 1024 * 1024
    """The size at which the file of the audit log is renamed (.1, .2, …) and a new one begun."""
    audit_files_max: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Files of the audit log that are kept, the present one included."""
