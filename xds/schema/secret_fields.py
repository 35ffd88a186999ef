"""The secrets that the API does not mark: fields, and headers that carry credentials, each with the reason.

Those that it marks (``udpa.annotations.sensitive``) are not repeated. Two kinds of field that may hold secrets are not
here, since their content is the operator's and mostly none: metadata, and the configuration of plugins (Wasm, Lua, Go).
The setting ``redact.fields`` adds them where they do.
"""

import re
from typing import Any

_CORE = "envoy.config.core.v3."
_GOOGLE = _CORE + "GrpcService.GoogleGrpc.CallCredentials."
_CALL = "envoy.extensions.grpc_service.call_credentials."

SECRET_FIELDS: dict[str, str] = {
    _GOOGLE + "access_token": "a bearer token",
    _GOOGLE + "google_refresh_token": "makes bearer tokens",
    _GOOGLE + "GoogleIAMCredentials.authorization_token": "a bearer token",
    _GOOGLE + "ServiceAccountJWTAccessCredentials.json_key": "has the private key of a service account",
    _CALL + "access_token.v3.AccessTokenCredentials.token": "a bearer token",
    _CALL + "google_refresh_token.v3.GoogleRefreshTokenCredentials.token": "makes bearer tokens",
    _CALL + "google_iam.v3.GoogleIamCredentials.authorization_token": "a bearer token",
    _CALL + "service_account_jwt_access.v3.ServiceAccountJwtAccessCredentials.json_key": "has a private key",
    "envoy.config.trace.v3.LightstepConfig.access_token": "the token for the collector",
    "envoy.config.trace.v3.DynamicOtConfig.config": "a tracer's own configuration, in which its token stands",
    "envoy.extensions.filters.http.aws_lambda.v3.Credentials.secret_access_key": "signs requests",
    "envoy.extensions.filters.http.aws_lambda.v3.Credentials.session_token": "signs requests",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.local_jwks": "may have symmetric keys (kty oct)",
    "envoy.extensions.filters.common.jwks.v3.JwtHandshakeValidator.local_jwks": "may have symmetric keys (kty oct)",
    "envoy.extensions.wasm.v3.EnvironmentVariables.key_values": "environments are where tokens are handed in",
}
"""Full names of fields to why their values are hidden. A field that a schema lacks is without effect."""

CREDENTIAL_HEADERS = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "www-authenticate"),
        *("api-key", "apikey", "x-api-key", "x-auth-token", "x-access-token", "x-authorization", "x-goog-api-key"),
        *("x-amz-security-token", "x-vault-token", "x-functions-key", "x-csrf-token", "private-token"),
        *("dd-api-key", "x-honeycomb-team", "lightstep-access-token", "x-sf-token", "x-figma-token", "x-gitlab-token"),
    }
)
"""Headers whose values are hidden wherever a resource adds, sends or matches them."""

_ADDED, _MATCHED = _CORE + "HeaderValue", "envoy.config.route.v3.HeaderMatcher"
_URI = _CORE + "HttpUri"
USER_IN_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")
_KEPT = {_ADDED: "key", _MATCHED: "name"}
"""The fields of headers that are shown: their names."""


CONDITIONAL = frozenset({_URI, *_KEPT})
"""The messages of which a field is secret or not by what else they have."""


class SecretFields:
    """Which fields are hidden besides those that the API marks; more can be added, and none taken away."""

    def __init__(self) -> None:
        self.fields = frozenset(SECRET_FIELDS)
        self.headers = CREDENTIAL_HEADERS

    def add(self, fields: frozenset[str], headers: frozenset[str]) -> None:
        """Add full names of fields, and names of headers in lower case."""
        self.fields |= fields
        self.headers |= headers

    def hides(self, message: Any, name: str) -> bool:
        """Return whether a field is hidden because of what else the message has."""
        full_name = message.DESCRIPTOR.full_name
        if full_name == _URI:
            return name == "uri" and USER_IN_URI.match(message.uri) is not None
        kept = _KEPT.get(full_name)
        return kept is not None and name != kept and getattr(message, kept).lower() in self.headers
