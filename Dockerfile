# syntax=docker/dockerfile:1
# The control plane, for amd64 and arm64: docker buildx build --platform linux/amd64,linux/arm64 .
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /venv && python -m pip install --no-cache-dir build
COPY pyproject.toml hatch_build.py README.md LICENSE CHANGELOG.md requirements.lock ./
COPY protos protos
COPY xds xds
RUN python -m build --wheel --outdir /wheels
# The versions that were tested are those of the lock file. As constraints they may not have hashes.
RUN sed -e '/--hash/d' -e 's/ *\\$//' requirements.lock > /tmp/constraints.txt \
 && /venv/bin/pip install --no-cache-dir --constraint /tmp/constraints.txt /wheels/*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /state --create-home xds
COPY --from=build /venv /venv
COPY docker/entrypoint.sh docker/healthy.py /usr/local/bin/
ENV PATH=/venv/bin:$PATH XDG_STATE_HOME=/state PYTHONUNBUFFERED=1
USER xds
# The store. What else is mounted: /certs and /resources, see docker/entrypoint.sh and docs/how-to/docker.md.
VOLUME /state
# xDS. The push API (18001) and the admin port (19000) are on the container's loopback unless you open them.
EXPOSE 18000
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s CMD ["python", "/usr/local/bin/healthy.py"]
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
CMD ["serve"]
