# syntax=docker/dockerfile:1
# One target per tier:  docker build --target gateway|scheduler|worker .
# Each target installs the extras of pyproject.toml with the tier's name and `tracing`. Only the worker has torch.
# hadolint global ignore=DL3013

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/pagoda/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PAGODA_HOME=/var/lib/pagoda \
    HF_HOME=/var/lib/pagoda/huggingface \
    PAGODA_GATEWAY_LOG_FORMAT=json \
    PAGODA_SCHEDULER_LOG_FORMAT=json \
    PAGODA_WORKER_LOG_FORMAT=json

# Dependencies come before sources, so that a change of code does not reinstall them. With pyproject.toml alone, Pagoda is a
# package without modules, and installing it installs its dependencies.
FROM base AS build
WORKDIR /build
RUN python -m venv /opt/pagoda
COPY pyproject.toml ./
RUN touch README.md LICENSE
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[tracing]'

FROM build AS build-gateway
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[gateway]'
COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall .

FROM build AS build-scheduler
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[scheduler]'
COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# Without TORCH_INDEX torch comes from pip's own index, which on Linux has the build for CUDA. PyTorch's index for CPUs makes the
# image gigabytes smaller. For GPUs name PyTorch's index for their toolkit, and set WORKER_EXTRAS=worker,gpu.
FROM build AS build-worker
ARG TORCH_INDEX=""
ARG WORKER_EXTRAS=worker
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$WORKER_EXTRAS]"
COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall .

FROM base AS runtime
RUN groupadd --gid 10001 pagoda \
    && useradd --uid 10001 --gid 10001 --no-log-init --create-home --home-dir /var/lib/pagoda pagoda \
    # New volumes that are mounted here get the owner of these directories.
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/pagoda/state /etc/pagoda/tokens/gateway /etc/pagoda/tokens/worker
USER 10001:10001
WORKDIR /var/lib/pagoda
VOLUME /var/lib/pagoda

# The gateway listens beyond loopback, so it needs a key (PAGODA_GATEWAY_API_KEY) and ends with an error without one.
# The image also has `pagoda pull`. Ollama's port is off, because it would be open only inside the container.
FROM runtime AS gateway
COPY --from=build-gateway /opt/pagoda /opt/pagoda
ENV PAGODA_GATEWAY_HOST=0.0.0.0 \
    PAGODA_GATEWAY_PORT=8000 \
    PAGODA_GATEWAY_OLLAMA_PORT=0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --retries=3 --start-period=5m --start-interval=2s \
    CMD ["python", "-P", "-m", "pagoda.healthcheck", "http://127.0.0.1:8000/ready"]
ENTRYPOINT ["python", "-P", "-m", "gateway"]

# The scheduler needs two settings. To identify gateways and workers: tokens (PAGODA_SCHEDULER_CLUSTER_TOKEN_FILE), or an authority
# of their certificates (PAGODA_TLS_CA). To listen: its certificate (PAGODA_TLS_CERT, PAGODA_TLS_KEY), or
# PAGODA_SCHEDULER_PLAINTEXT=true.
FROM runtime AS scheduler
COPY --from=build-scheduler /opt/pagoda /opt/pagoda
ENV PAGODA_SCHEDULER_LISTEN=0.0.0.0:50051
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=10s --retries=3 --start-period=30s --start-interval=1s \
    CMD ["python", "-P", "-m", "pagoda.healthcheck", "127.0.0.1:50051"]
ENTRYPOINT ["python", "-P", "-m", "scheduler"]

# The first start compiles the default numeric mode for the CPU into PAGODA_HOME/state. If PAGODA_HOME is a shared volume, give
# that directory a volume of the worker's own.
FROM runtime AS runtime-worker
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001

# A worker listens on no port, so the health check asks its scheduler. The worker's id begins with the container's name unless
# PAGODA_WORKER_WORKER_ID is set.
FROM runtime-worker AS worker
COPY --from=build-worker /opt/pagoda /opt/pagoda
HEALTHCHECK --interval=30s --timeout=10s --retries=3 --start-period=10m --start-interval=5s \
    CMD ["sh", "-c", "exec python -P -m pagoda.healthcheck \"$PAGODA_WORKER_SCHEDULER\" --worker \"${PAGODA_WORKER_WORKER_ID:-$HOSTNAME}\""]
ENTRYPOINT ["python", "-P", "-m", "worker"]
