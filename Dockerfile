# The server with the shipped models:  docker build -t hiddenstate .
# On NVIDIA GPUs:                      docker build -t hiddenstate:gpu --build-arg EXTRA=server-gpu .
# and then `docker run --gpus all`: CUDA and cuDNN come as Python packages, only the driver is the host's.
# BASE may be any image of Debian's family with Python 3.11 or later, with its headers, as `python`, and pip. With
# --build-arg HIDDENSTATE_COMPILE=0 nothing is compiled, and the family does not matter.
ARG BASE=python:3.11-slim

FROM ${BASE} AS builder
ARG EXTRA=server
# 1: an image that should run compiled and does not is not built.
ARG HIDDENSTATE_COMPILE=1
# hadolint ignore=DL3008
RUN if [ "$HIDDENSTATE_COMPILE" != 0 ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
# No pip in the environment that is served from: nothing there can install anything.
RUN python -m venv --without-pip /opt/hiddenstate
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
COPY exporter exporter
COPY tools/compile.py tools/compiled_modules.py tools/hatch_build.py tools/
RUN python -m pip --python /opt/hiddenstate/bin/python install --no-cache-dir --disable-pip-version-check ".[${EXTRA}]"

FROM ${BASE}
COPY --from=builder /opt/hiddenstate /opt/hiddenstate
COPY models /models
# Bytecode was written when the modules were installed; nothing is written at run time, so the file system may be read-only.
# HIDDENSTATE_SERVER is where the health check asks: change it with the port of HIDDENSTATE_LISTEN.
ENV PATH=/opt/hiddenstate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HIDDENSTATE_MODELS=/models \
    HIDDENSTATE_LISTEN=0.0.0.0:50051 \
    HIDDENSTATE_METRICS=0.0.0.0:9464 \
    HIDDENSTATE_SERVER=127.0.0.1:50051
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hiddenstate" \
      org.opencontainers.image.description="gRPC serving for recurrent sequence models on ONNX Runtime" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["hiddenstate", "health", "--timeout-s", "3"]
# In the form of a list, so that the server is process 1 and SIGTERM reaches it.
ENTRYPOINT ["hiddenstate"]
CMD ["serve"]
