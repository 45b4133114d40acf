# syntax=docker/dockerfile:1
# Two targets of one recipe: `cpu` and `cuda`. The image holds the serving rooms alone (service,
# models) and runs as an unprivileged user.
#
#   docker build --target cpu  -t codefend:cpu  .
#   docker build --target cuda -t codefend:cuda .
#
# Package indexes are build arguments without a default; without them pip's own default decides.
#   CPU_TORCH_INDEX_URL, CUDA_TORCH_INDEX_URL  where torch's build for the target is found
#   PIP_INDEX_URL                              where everything else is found
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/codefend
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY codefend ./codefend
COPY service ./service
COPY models ./models
# Its first scenes are part of the page at /.
COPY gallery ./gallery

# Torch first and by itself: it alone differs between the targets, and it is the largest layer.
FROM build AS build-cpu
ARG PIP_INDEX_URL
ARG CPU_TORCH_INDEX_URL
RUN /opt/codefend/bin/pip install ${CPU_TORCH_INDEX_URL:+--index-url "$CPU_TORCH_INDEX_URL"} \
        --constraint constraints.txt torch \
    && { /opt/codefend/bin/pip install --constraint constraints.txt '.[openvino]' \
        || /opt/codefend/bin/pip install --constraint constraints.txt .; }
# Converted here, once: the container's user can write nothing beside the weights.
RUN /opt/codefend/bin/codefend prepare

FROM build AS build-cuda
ARG PIP_INDEX_URL
ARG CUDA_TORCH_INDEX_URL
RUN /opt/codefend/bin/pip install ${CUDA_TORCH_INDEX_URL:+--index-url "$CUDA_TORCH_INDEX_URL"} \
        --constraint constraints.txt torch \
    && /opt/codefend/bin/pip install --constraint constraints.txt .

FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --system --gid 10001 codefend \
    && useradd --system --uid 10001 --gid codefend --home-dir /nonexistent --no-create-home codefend \
    && install --directory --owner codefend --group codefend --mode 0700 /run/codefend
COPY --chmod=0755 deploy/entrypoint.py /usr/local/bin/codefend-entrypoint
ENV PATH=/opt/codefend/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    CODEFEND_HOST=0.0.0.0 \
    CODEFEND_PORT=8000
EXPOSE 8000
# A probe needs no key; readiness is the orchestrator's own question, on /readyz.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['CODEFEND_PORT']}/healthz\", timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["codefend-entrypoint"]
CMD ["codefend", "serve"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/codefend /opt/codefend
USER 10001:10001

# Last, and so what a build without --target makes.
FROM runtime AS cpu
COPY --from=build-cpu /opt/codefend /opt/codefend
USER 10001:10001
