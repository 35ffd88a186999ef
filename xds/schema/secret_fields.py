"""The secrets that the API does not mark: fields, and headers that carry credentials, each with the reason.

Those that it marks (``udpa.annotations.sensitive``) are not repeated. Two kinds of field that may hold secrets are not
here, since their content is the operator's and mostly none: metadata, and the configuration of plugins (Wasm, Lua, Go).
The setting ``redact.fields`` adds them where they do.
"""

import re
from collections.abc import Callable
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

CREDENTIAL_PARAMETERS = frozenset(
    {
        *("access_token", "accesstoken", "access-token", "api_key", "apikey", "api-key", "auth", "auth_token", "token"),
        *("client_assertion", "client_secret", "id_token", "password", "refresh_token", "secret", "sig", "signature"),
    }
)
"""Parameters of queries and of token requests whose values are hidden wherever a resource adds or matches them."""

_URI = _CORE + "HttpUri"
USER_IN_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")
_GENERIC_PROXY = "envoy.extensions.filters.network.generic_proxy.matcher.v3."
_HEADERS = {
    _CORE + "HeaderValue": "key",
    _CORE + "KeyValue": "key",
    "envoy.config.route.v3.HeaderMatcher": "name",
    _GENERIC_PROXY + "KeyValueMatchEntry": "name",
}
"""The messages of a header or property that is added or matched, with the field of its name, which is shown."""
_PARAMETERS = {
    _CORE + "QueryParameter": "key",
    "envoy.config.route.v3.QueryParameterMatcher": "name",
    "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2.EndpointParameter": "name",
}
_COOKIE = "envoy.config.route.v3.CookieMatcher"
_MATCHERS = ("xds.type.matcher.v3.Matcher.", "envoy.config.common.matcher.v3.Matcher.")
_PREDICATES = frozenset(matcher + "MatcherList.Predicate.SinglePredicate" for matcher in _MATCHERS)
_TREES = frozenset(matcher + "MatcherTree" for matcher in _MATCHERS)
_HEADER_INPUTS = {
    **{
        f"envoy.type.matcher.v3.Http{part}MatchInput": "header_name"
        for part in ("RequestHeader", "RequestTrailer", "ResponseHeader", "ResponseTrailer")
    },
    _GENERIC_PROXY + "PropertyMatchInput": "property_name",
}
"""What a matcher may compare: messages of headers and properties, with the field of the name."""
_PARAMETER_INPUT = "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput"

CONDITIONAL = frozenset({_URI, _COOKIE, *_HEADERS, *_PARAMETERS, *_PREDICATES, *_TREES})
"""The messages of which a field is secret or not by what else they have."""

Unpack = Callable[[Any], Any]
"""Returns the message in a ``google.protobuf.Any``, None if its type is unknown or it can't be decoded."""


class SecretFields:
    """Which fields are hidden besides those that the API marks; more can be added, and none taken away."""

    def __init__(self) -> None:
        self.fields = frozenset(SECRET_FIELDS)
        self.headers = CREDENTIAL_HEADERS

    def add(self, fields: frozenset[str], headers: frozenset[str]) -> None:
        """Add full names of fields, and names of headers in lower case."""
        self.fields |= fields
        self.headers |= headers

    def hides(self, message: Any, name: str, unpack: Unpack) -> bool:
        """Return whether a field is hidden because of what else the message has."""
        full_name = message.DESCRIPTOR.full_name
        if full_name == _URI:
            return name == "uri" and USER_IN_URI.match(message.uri) is not None
        if full_name == _COOKIE:
            return name != "name"
        if (kept := _HEADERS.get(full_name)) is not None:
            return name != kept and getattr(message, kept).lower() in self.headers
        if (kept := _PARAMETERS.get(full_name)) is not None:
            return name != kept and getattr(message, kept).lower() in CREDENTIAL_PARAMETERS
        return name in ("value_match", "custom_match") and self.is_credential(message.input.typed_config, unpack)

    def keys_hidden_in(self, message: Any, unpack: Unpack) -> Any:
        """Return the map of a matcher whose keys are compared with credentials, None if there is none."""
        if message.DESCRIPTOR.full_name not in _TREES:
            return None
        kind = message.WhichOneof("tree_type")
        if kind in (None, "custom_match") or not self.is_credential(message.input.typed_config, unpack):
            return None
        return getattr(message, kind).map

    def is_credential(self, packed: Any, unpack: Unpack) -> bool:
        """Return whether the input of a matcher is the value of a credential: that of a header or of a parameter."""
        full_name = packed.type_url.rpartition("/")[2]
        if (field := _HEADER_INPUTS.get(full_name)) is not None:
            compared = unpack(packed)
            return compared is not None and getattr(compared, field).lower() in self.headers
        if full_name == _PARAMETER_INPUT:
            compared = unpack(packed)
            return compared is not None and compared.query_param.lower() in CREDENTIAL_PARAMETERS
        return False
