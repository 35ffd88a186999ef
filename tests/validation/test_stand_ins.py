"""What is on a sidecar's disk has a stand-in that a real Envoy takes, so that what is around it is still judged."""

from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.judged import EXTENSIONS, HTTP, judged, with_filter, with_route
from support.pki import Authority
from support.static_envoy import address, hcm, listener, static_cluster, typed

from xds.schema.pool import load_schema
from xds.validation.inline import Inliner, UnjudgeableError
from xds.validation.judge import Judge

pytestmark = pytest.mark.envoy

NETWORK = EXTENSIONS + "filters.network."
FILE = {"filename": "/none/x"}
ROLE = {"role_arn": "arn:aws:iam::1:role/a"}
MODULE = {"dynamic_module_config": {"name": "none"}, "filter_name": "x"}
GEO = typed(
    "provider",
    EXTENSIONS + "geoip_providers.maxmind.v3.MaxMindConfig",
    common_provider_config={"geo_field_keys": {"country": "x-country"}},
    city_db_path="/none/city.mmdb",
)


def with_google_grpc(**credentials: Any) -> r.Json:
    service = {"target_uri": "127.0.0.1:1", "stat_prefix": "g", "channel_credentials": {"ssl_credentials": credentials}}
    return with_filter("ext_authz.v3.ExtAuthz", grpc_service={"google_grpc": service}, transport_api_version="V3")


def with_aws(**provider: Any) -> r.Json:
    chain = {"custom_credential_provider_chain": True, **provider}
    return with_filter(
        "aws_request_signing.v3.AwsRequestSigning", service_name="s3", region="eu-1", credential_provider=chain
    )


def with_validation(**fields: Any) -> r.Json:
    config = {"@type": r.UPSTREAM_TLS, "common_tls_context": {"validation_context": fields}}
    return static_cluster("t", transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": config})


def with_spiffe(name: str = "envoy.tls.cert_validator.spiffe", **fields: Any) -> r.Json:
    spiffe = EXTENSIONS + "transport_sockets.tls.v3.SPIFFECertValidatorConfig"
    return with_validation(custom_validator_config=typed(name, spiffe, **fields))


def with_server_tls(certificate: r.Json, **fields: Any) -> r.Json:
    config = {"@type": r.DOWNSTREAM_TLS, "common_tls_context": {"tls_certificates": [certificate]}, **fields}
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": config}
    return listener(filter_chains=[{"filters": [hcm()], "transport_socket": socket}])


def with_jwt(requires: str = "p", **provider: Any) -> r.Json:
    rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": requires}}]
    return with_filter("jwt_authn.v3.JwtAuthentication", providers={"p": {"issuer": "i", **provider}}, rules=rules)


def with_redis(**fields: Any) -> r.Json:
    config = {"stat_prefix": "r", "settings": {"op_timeout": "5s"}, **fields}
    routes = {"catch_all_route": {"cluster": "c"}}
    return listener(typed("r", NETWORK + "redis_proxy.v3.RedisProxy", prefix_routes=routes, **config))


def with_udp(listener_filter: r.Json) -> r.Json:
    return {
        "@type": r.LISTENER,
        "name": "u",
        "address": address(protocol="UDP"),
        "listener_filters": [listener_filter],
    }


BUFFERS = {"manager_config": {"thread_pool": {"thread_count": 1}}}
STOOD_FOR = {
    "jwks": with_jwt(local_jwks=FILE),
    "body": with_filter(
        "custom_response.v3.CustomResponse",
        custom_response_matcher={
            "on_no_match": {
                "action": typed(
                    "a", EXTENSIONS + "http.custom_response.local_response_policy.v3.LocalResponsePolicy", body=FILE
                )
            }
        },
    ),
    "local reply": listener(
        hcm(
            local_reply_config={
                "mappers": [
                    {
                        "filter": {
                            "status_code_filter": {"comparison": {"value": {"default_value": 400, "runtime_key": "k"}}}
                        },
                        "body": FILE,
                    }
                ]
            }
        )
    ),
    "directory": with_filter(
        "file_system_buffer.v3.FileSystemBufferFilterConfig", storage_buffer_path="/none/x", **BUFFERS
    ),
    "cache": with_filter(
        "cache.v3.CacheConfig",
        typed_config={
            "@type": EXTENSIONS + "http.cache.file_system_http_cache.v3.FileSystemHttpCacheConfig",
            "cache_path": "/none/x",
            **BUFFERS,
        },
    ),
    "passwords": with_filter("basic_auth.v3.BasicAuth", users=FILE),
    "lua": with_filter("lua.v3.Lua", default_source_code=FILE, source_codes={"a": FILE}),
    "lua matcher": with_route(
        match={
            "prefix": "/",
            "headers": [
                {
                    "name": "a",
                    "string_match": {"custom": typed("x", EXTENSIONS + "string_matcher.lua.v3.Lua", source_code=FILE)},
                }
            ],
        }
    ),
    "lua route": with_route(
        route={
            "inline_cluster_specifier_plugin": {
                "extension": typed(
                    "x",
                    EXTENSIONS + "router.cluster_specifiers.lua.v3.LuaConfig",
                    source_code=FILE,
                    default_cluster="c",
                )
            }
        }
    ),
    "bundle": with_spiffe(trust_domains=[{"name": "a.com", "trust_bundle": FILE}]),
    "bundles": with_spiffe(trust_domains=[{"name": "a.com"}], trust_bundles=FILE),
    "password of a key": with_server_tls({"pkcs12": FILE, "password": FILE}),
    "staple": with_server_tls(
        {"certificate_chain": FILE, "private_key": FILE, "ocsp_staple": FILE}, ocsp_staple_policy="MUST_STAPLE"
    ),
    "google grpc": with_google_grpc(root_certs=FILE, private_key=FILE, cert_chain={"inline_string": "x"}),
    "aws token": with_aws(assume_role_with_web_identity_provider={"web_identity_token_data_source": FILE, **ROLE}),
    "aws certificate": with_aws(
        iam_roles_anywhere_credential_provider={
            **ROLE,
            "certificate": FILE,
            "private_key": FILE,
            "certificate_chain": FILE,
            "trust_anchor_arn": "arn:aws:rolesanywhere:us-east-1:1:trust-anchor/a",
            "profile_arn": "arn:aws:rolesanywhere:us-east-1:1:profile/a",
            "session_duration": "900s",
        }
    ),
    "redis": with_redis(downstream_auth_passwords=[FILE]),
    "dns": with_udp(
        typed(
            "envoy.filters.udp.dns_filter",
            EXTENSIONS + "filters.udp.dns_filter.v3.DnsFilterConfig",
            stat_prefix="s",
            server_config={"external_dns_table": FILE},
        )
    ),
    "access log": listener(
        hcm(access_log=[typed("f", EXTENSIONS + "access_loggers.file.v3.FileAccessLog", path="/none/x")])
    ),
    "health log": static_cluster(
        "h",
        health_checks=[
            {
                "timeout": "1s",
                "interval": "60s",
                "healthy_threshold": 1,
                "unhealthy_threshold": 3,
                "tcp_health_check": {},
                "event_log_path": "/none/x",
            }
        ],
    ),
    "key log": static_cluster(
        "k",
        transport_socket={
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": r.UPSTREAM_TLS, "common_tls_context": {"key_log": {"path": "/none/x"}}},
        },
    ),
    "source": {
        "@type": r.CLUSTER,
        "name": "e",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"path_config_source": {"path": "/none/x"}}},
    },
}


@pytest.mark.parametrize("name", STOOD_FOR)
def test_something_stands_for_it_and_is_told(judge: Judge, name: str) -> None:
    found = judged(judge, STOOD_FOR[name])
    assert found.problems == ()
    assert any("/none/x" in each.what and each.field for each in found.warnings)
    assert [each.what for each in found.warnings if "left out" in each.what] == []


LEFT_OUT = {
    "geoip": with_filter("geoip.v3.Geoip", provider=GEO),
    "geoip network": listener(typed("g", NETWORK + "geoip.v3.Geoip", provider=GEO), hcm()),
    "dictionary": with_filter(
        "compressor.v3.Compressor",
        compressor_library=typed("z", EXTENSIONS + "compression.zstd.compressor.v3.Zstd", dictionary=FILE),
    ),
    "terminal HTTP filter": listener(
        hcm(typed("m", HTTP + "dynamic_modules.v3.DynamicModuleFilter", terminal_filter=True, **MODULE))
    ),
    "terminal network filter": listener(
        typed("m", NETWORK + "dynamic_modules.v3.DynamicModuleNetworkFilter", terminal_filter=True, **MODULE)
    ),
    "cluster": {
        "@type": r.CLUSTER,
        "name": "m",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": typed(
            "envoy.clusters.dynamic_modules",
            EXTENSIONS + "clusters.dynamic_modules.v3.ClusterConfig",
            dynamic_module_config={"name": "none"},
            cluster_name="x",
        ),
    },
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_has_no_stand_in_is_left_out_with_all_that_needs_it(judge: Judge, name: str) -> None:
    found = judged(judge, LEFT_OUT[name])
    assert found.problems == ()
    assert ["left out" in each.what or "was not judged" in each.what for each in found.warnings] == [True]


AROUND = {
    "a trust domain twice": (
        with_spiffe(trust_domains=[{"name": "a.com", "trust_bundle": FILE}] * 2),
        "Multiple trust bundles",
    ),
    "an unknown validator": (with_spiffe("bogus", trust_domains=[{"name": "a", "trust_bundle": FILE}]), "bogus"),
    "another script": (
        with_filter("lua.v3.Lua", default_source_code=FILE, source_codes={"a": {"inline_string": "function ("}}),
        "script load error",
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_what_is_around_a_stand_in_is_judged(judge: Judge, name: str) -> None:
    item, words = AROUND[name]
    (problem,) = judged(judge, item).problems
    assert words in problem.what


def test_a_key_of_a_provider_does_not_hide_its_listener(judge: Judge) -> None:
    item = with_server_tls({"certificate_chain": FILE, "private_key_provider": {"provider_name": "none"}})
    found = judged(judge, item)
    assert found.problems == ()
    assert [each.field.rpartition(".")[2] for each in found.warnings] == ["private_key_provider", "certificate_chain"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_staple_is_asked_for_of_a_secret_unless_it_is_on_the_disk(
    judge: Judge, tmp_path: Path, on_disk: bool
) -> None:
    pair = Authority(tmp_path).server()
    secret = r.secret("s", pair.cert_text, pair.key_text)
    if on_disk:
        secret["tls_certificate"] = {"certificate_chain": FILE, "private_key": FILE, "ocsp_staple": FILE}
    socket = r.downstream_tls("s", ocsp_staple_policy="MUST_STAPLE")
    item = listener(filter_chains=[{"filters": [hcm()], "transport_socket": socket}])
    found = judged(judge, secret, item)
    assert ["OCSP" in each.what for each in found.problems] == ([] if on_disk else [True])
    assert any(each.field.endswith("ocsp_staple_policy") for each in found.warnings) == on_disk


def test_a_staple_that_is_nowhere_is_missed_also_of_a_certificate_on_the_disk(judge: Judge) -> None:
    item = with_server_tls({"certificate_chain": FILE, "private_key": FILE}, ocsp_staple_policy="MUST_STAPLE")
    (problem,) = judged(judge, item).problems
    assert "OCSP" in problem.what


NOT_STOOD_FOR = {
    "envoy.extensions.compression.zstd.compressor.v3.Zstd.dictionary",
    "envoy.extensions.compression.zstd.decompressor.v3.Zstd.dictionaries",
    "envoy.extensions.dynamic_modules.v3.DynamicModuleConfig.module",
    "envoy.extensions.filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig.descriptor_set",
    "envoy.extensions.filters.http.ip_tagging.v3.IPTagging.ip_tags_datasource",
    "envoy.extensions.filters.http.proto_api_scrubber.v3.DescriptorSet.data_source",
    "envoy.extensions.filters.http.proto_message_extraction.v3.ProtoMessageExtractionConfig.data_source",
    "envoy.extensions.filters.http.proto_message_logging.v3.ProtoMessageLoggingConfig.data_source",
    "envoy.extensions.quic.connection_id_generator.quic_lb.v3.Config.server_id",
    "envoy.extensions.quic.server_preferred_address.v3.DataSourceServerPreferredAddressConfig.AddressFamilyConfig.address",
    "envoy.extensions.quic.server_preferred_address.v3.DataSourceServerPreferredAddressConfig.AddressFamilyConfig.port",
    "envoy.extensions.quic.server_preferred_address.v3.DataSourceServerPreferredAddressConfig.AddressFamilyConfig.dnat_address",
    "envoy.extensions.wasm.v3.VmConfig.code",
}
"""Sources that must fit what is around them in a way that only their reader knows: what needs them is left out."""


def test_every_source_of_the_schema_has_a_stand_in_or_is_known_to_have_none() -> None:
    schema = load_schema()
    source: Any = schema.message_class("envoy.config.core.v3.DataSource")(filename="/none/x")
    without = set()
    seen = 0
    for name in schema.message_names():
        for field in schema.descriptor(name).fields:
            kind = field.message_type
            is_map = kind is not None and kind.GetOptions().map_entry
            inner = kind.fields_by_name["value"].message_type if is_map else kind
            if inner is None or inner.full_name not in (
                "envoy.config.core.v3.DataSource",
                "envoy.config.core.v3.AsyncDataSource",
            ):
                continue
            message: Any = schema.message_class(name)()
            holder = getattr(message, field.name)
            target = holder["k"] if is_map else holder.add() if field.is_repeated else holder
            (target if inner.full_name.endswith(".DataSource") else target.local).CopyFrom(source)
            inliner = Inliner(schema, lambda *_: None, lambda _: [])
            seen += 1
            try:
                inliner.rewrite(message)
            except UnjudgeableError:
                without.add(f"{name}.{field.name}")
            else:
                assert b"/none/x" not in message.SerializeToString(), field.full_name
                assert any(field.name in place for place, _ in inliner.warnings), field.full_name
    assert seen > 50
    assert without - {"envoy.config.core.v3.AsyncDataSource.local"} == NOT_STOOD_FOR
