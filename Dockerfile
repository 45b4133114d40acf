# syntax=docker/dockerfile:1
# Three targets of one recipe. Each holds the serving rooms alone (service, models), and runs as an
# unprivileged user with a read-only root.
#
#   cpu    the embedded model, and the purifier on a CPU; what a build without a target makes
#   guard  the same without torch and without the embedded model: in front of a model elsewhere
#   cuda   the purifier and the embedded model on an NVIDIA GPU
#
#   make image                  or: docker build --target cpu -t codefend:cpu .
#
# Where packages are found are build arguments without a default; without them pip's own decides.
#   CPU_TORCH_INDEX_URL, CUDA_TORCH_INDEX_URL  torch's build for the target
#   PIP_INDEX_URL, PIP_FIND_LINKS              everything else
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# What writes the bill of materials stays out of what is served.
RUN python -m venv /opt/codefend \
    && python -m venv /opt/sbom \
    && /opt/sbom/bin/pip install --quiet --constraint constraints.txt cyclonedx-bom
COPY deploy/image ./deploy/image

# What is installed last, into environments that differ: a change here fetches no package again.
FROM scratch AS source
COPY README.md LICENSE /
COPY codefend /codefend
COPY service /service
COPY models /models
# Its first scenes are part of the page at /.
COPY gallery /gallery

FROM build AS packages-guard
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
RUN python deploy/image/packages.py --without-torch openvino tracing heic quarantine > /tmp/packages.txt \
    && /opt/codefend/bin/pip install --constraint constraints.txt --requirement /tmp/packages.txt

# Torch by itself: it alone differs between the targets, and it is the largest part.
FROM packages-guard AS build-cpu
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG CPU_TORCH_INDEX_URL
RUN /opt/codefend/bin/pip install ${CPU_TORCH_INDEX_URL:+--index-url "$CPU_TORCH_INDEX_URL"} \
        --constraint constraints.txt torch \
    && python deploy/image/packages.py openvino tracing heic quarantine > /tmp/packages.txt \
    && /opt/codefend/bin/pip install --constraint constraints.txt --requirement /tmp/packages.txt
COPY --from=source / ./
# Converted here, once: the container's user can write nothing beside the weights.
RUN /opt/codefend/bin/pip install --no-deps . \
    && /opt/codefend/bin/codefend prepare \
    && sh deploy/image/finish.sh /opt/codefend \
    && mkdir /opt/prepared && cd /opt/codefend \
    && cp --archive --parents bin/codefend lib/python3*/site-packages/codefend* /opt/prepared

# The package as it was prepared, in an environment that never had torch.
FROM packages-guard AS build-guard
COPY --from=build-cpu /opt/prepared /opt/codefend
RUN sh deploy/image/finish.sh /opt/codefend

FROM build AS build-cuda
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
ARG CUDA_TORCH_INDEX_URL
RUN /opt/codefend/bin/pip install ${CUDA_TORCH_INDEX_URL:+--index-url "$CUDA_TORCH_INDEX_URL"} \
        --constraint constraints.txt torch \
    && python deploy/image/packages.py tracing heic quarantine > /tmp/packages.txt \
    && /opt/codefend/bin/pip install --constraint constraints.txt --requirement /tmp/packages.txt
COPY --from=source / ./
RUN /opt/codefend/bin/pip install --no-deps . \
    && sh deploy/image/finish.sh /opt/codefend

FROM ${PYTHON_IMAGE} AS runtime
ARG PYTHON_IMAGE
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="CoDefend" \
      org.opencontainers.image.description="Purifies adversarial images in front of a multimodal language model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
RUN groupadd --gid 10001 codefend \
    && useradd --uid 10001 --gid codefend --home-dir /nonexistent --no-create-home --no-log-init codefend \
    && install --directory --owner codefend --group codefend --mode 0700 /run/codefend
COPY --chmod=0755 deploy/image/entrypoint.py /usr/local/bin/codefend-entrypoint
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

FROM runtime AS guard
COPY --from=build-guard /opt/codefend /opt/codefend
USER 10001:10001

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/codefend /opt/codefend
USER 10001:10001

# Last, and so what a build without --target makes.
FROM runtime AS cpu
COPY --from=build-cpu /opt/codefend /opt/codefend
USER 10001:10001
