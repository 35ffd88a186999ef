"""Why nothing can be sent to systems that watch this one."""


class TracesMissingError(Exception):
    """OpenTelemetry is not installed."""
