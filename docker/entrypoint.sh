#!/bin/sh
# The image's entry point: `xds`, and for `xds serve` the settings that follow from what is mounted.
#
#   /certs      tls.crt, tls.key and ca.crt: xDS is served on every address over TLS, to clients with a certificate of ca.crt
#   /resources  a directory to serve
#
# Options and variables that are given win. Without certificates xDS is served in plaintext: on loopback, or on every
# address with XDS_INSECURE_XDS=1.
set -eu
certs=/certs
resources=/resources

say() { echo "xds: $*" >&2; }

# given WORD...: whether one of these options is among the arguments.
given() {
  for option in "$@"; do
    case " $arguments " in *" $option "* | *" $option="*) return 0 ;; esac
  done
  return 1
}

is_insecure() {
  given --insecure-xds && return 0
  case "${XDS_INSECURE_XDS:-}" in 1 | [Tt]rue | TRUE | [Yy]es | YES | [Oo]n | ON | y | Y | t | T) return 0 ;; esac
  return 1
}

[ "${1:-serve}" = serve ] || exec xds "$@"
[ $# -gt 0 ] || set -- serve
arguments="$*"
if given --help -h; then exec xds "$@"; fi

if [ -d "$resources" ] && [ -z "${XDS_DIRECTORY:-}" ]; then
  export XDS_DIRECTORY="$resources"
fi

if [ -d "$certs" ] && [ -z "${XDS_TLS__CERT:-}" ] && ! given --tls-cert; then
  for name in tls.crt tls.key; do
    if [ ! -e "$certs/$name" ]; then
      say "$certs has no $name: mount a folder with tls.crt, tls.key and ca.crt"
      exit 2
    fi
  done
  export XDS_TLS__CERT="$certs/tls.crt" XDS_TLS__KEY="$certs/tls.key"
  if [ -e "$certs/ca.crt" ]; then
    export XDS_TLS__CLIENT_CA="${XDS_TLS__CLIENT_CA:-$certs/ca.crt}"
  elif [ -z "${XDS_TLS__CLIENT_CA:-}${XDS_TLS__TRUST_DOMAINS:-}${XDS_CONFIG:-}" ] &&
    ! given --tls-client-ca --tls-trust-domain --config; then
    say "$certs has no ca.crt: clients need no certificate, so anyone who can connect can read every resource"
  fi
fi

# A settings file may name an address, which a variable would override.
if [ -z "${XDS_LISTEN:-}" ] && [ -z "${XDS_CONFIG:-}" ] && ! given --listen --config; then
  if [ -n "${XDS_TLS__CERT:-}" ] || given --tls-cert || is_insecure; then
    export XDS_LISTEN=0.0.0.0:18000
  else
    export XDS_LISTEN=127.0.0.1:18000
    say "xDS is on the container's own loopback only, so no Envoy outside reaches it. Mount certificates"
    say "(--volume DIR:$certs:ro, with tls.crt, tls.key and ca.crt), or allow plaintext with --env XDS_INSECURE_XDS=1"
  fi
fi

if [ -z "${XDS_ADMIN:-}" ] && [ -z "${XDS_CONFIG:-}" ] && ! given --admin --config; then
  say "push API and admin port are on the container's own loopback: docker exec CONTAINER xds status. To open them:"
  say "XDS_API__LISTEN=0.0.0.0:18001 XDS_ADMIN=0.0.0.0:19000, and XDS_API__TOKEN_FILE, XDS_API__TLS_CERT, XDS_API__TLS_KEY"
fi

exec xds "$@"
