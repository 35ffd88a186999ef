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
ENV PATH=/venv/bin:$PATH XDG_STATE_HOME=/state PYTHONUNBUFFERED=1
USER xds
VOLUME /state
EXPOSE 18000 18001 19000
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:19000/readyz', timeout=1)"]
ENTRYPOINT ["xds"]
CMD ["serve", "--listen", "0.0.0.0:18000"]
