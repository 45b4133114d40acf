# serve, test, check and bench each do all of their own set-up; they need Python 3.11+ and pip, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: serve test test-fast test-clients test-litellm test-browser check playground bench bench-gpu gpu docs site wheel try-wheel sbom gallery fuzz image manifests clean
.DELETE_ON_ERROR:

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# With OpenVINO the purifier loads no torch; where it has no wheel, torch does its work.
$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[openvino]' || \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab,dev]'
	@touch $@

serve: $(VENV)/.serve
	$(BIN)/codefend serve

$(VENV)/.lab: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	@touch $@

# Gradio wants an older Pillow than is pinned: it has an environment of its own, which finds all other
# packages in $(VENV), so that torch is not fetched again.
GRADIO := $(VENV)/playground
$(GRADIO)/.ready: $(VENV)/.lab
	$(BIN)/python -m venv $(GRADIO)
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> "$$($(GRADIO)/bin/python -c 'import site; print(site.getsitepackages()[0])')/lab.pth"
	$(GRADIO)/bin/python -m pip install --quiet --editable '.[lab,playground]'
	@touch $@

# PLAYGROUND='--port 7870 --victim DIR --purifier DIR'; --help says more.
PLAYGROUND ?=
playground: $(GRADIO)/.ready
	$(GRADIO)/bin/python -m codefend.lab.cli playground $(PLAYGROUND)

# Several at once, one thread each, in the order that tests/conftest.py gives them; then, one by one,
# what measures how long something takes.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -m alone

# No processes, no training: two minutes.
test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

# Real clients, pinned in tests/clients/locks, each in an environment of its own: minutes, and npm.
# One alone: make test-clients CLIENT=openai-py; newer versions: make test-clients OPTIONS=--relock
CLIENT  ?=
OPTIONS ?=
test-clients: $(VENV)/.dev
	$(BIN)/python -m tests.clients $(OPTIONS) $(CLIENT)

# LiteLLM is never a dependency: its proxy lives in an environment of its own. Its next version may
# have other routes and fields, which the tests compare with what is documented.
LITELLM_VENV ?= .venv-litellm
LITELLM_VERSION ?= 1.108.7
$(LITELLM_VENV)/bin/litellm:
	$(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/python -m pip install --quiet 'litellm[proxy]==$(LITELLM_VERSION)'

test-litellm: $(VENV)/.dev $(LITELLM_VENV)/bin/litellm
	LITELLM=$(abspath $(LITELLM_VENV))/bin/litellm $(BIN)/python -m pytest tests/litellm

# The pages in Debian's Chromium (apt-get install chromium), without a network; axe-core, which finds
# what keeps people out, comes by npm. SHOTS=docs writes the screenshots anew, to be looked at.
AXE_VERSION ?= 4.14.1
SHOTS       ?=
$(VENV)/.browser: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	@touch $@
$(VENV)/axe-core/package/axe.min.js:
	mkdir -p $(VENV)/axe-core
	cd $(VENV)/axe-core && npm pack --silent axe-core@$(AXE_VERSION) && tar xzf axe-core-*.tgz && rm axe-core-*.tgz

test-browser: $(VENV)/.browser $(GRADIO)/.ready $(VENV)/axe-core/package/axe.min.js
	$(BIN)/python -m pytest tests/browser $(if $(SHOTS),--shots $(SHOTS))

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# On a machine with an NVIDIA GPU and the packages installed: the parts of `make gpu` that measure.
bench-gpu:
	$(PYTHON) -m codefend.lab.cli parts --only tests,bench-engine,bench-service $(PARTS)

# On a machine with an NVIDIA GPU and the packages installed: what a day there is for, part by part.
# PARTS='--plan' prints it; '--only tests', '--skip llava', '--minutes 28', '--tiny --device cpu'.
gpu:
	$(PYTHON) -m codefend.lab.cli parts $(PARTS)

docs: $(VENV)/.dev
	$(BIN)/python -m tests.documentation
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m tests.deploy.chart

# deploy/kubernetes, out of the chart: needs Debian's golang-go, golang-github-masterminds-sprig-dev
# and golang-k8s-sigs-yaml-dev, and no Helm.
manifests: $(VENV)/.dev
	$(BIN)/python -m tests.deploy.chart manifests

# The site that the documentation is read on: build/site/index.html, which loads nothing from elsewhere.
site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# What is released: the wheel, and the list of what it needs, with versions and licences.
wheel: $(VENV)/.dev
	$(BIN)/python -m tests.wheel build dist

# The wheel in an empty environment and an empty home, asked: minutes, and the package index.
try-wheel: $(VENV)/.dev
	$(BIN)/python -m tests.wheel try

sbom: $(VENV)/.dev
	$(BIN)/python -m tests.wheel sbom dist

# Longer: make fuzz IMAGES=100000 REQUESTS=2000 EXAMPLES=500 BODIES=200000 SEED=1. What it finds becomes a test.
IMAGES   ?= 20000
REQUESTS ?= 1000
EXAMPLES ?= 50
BODIES   ?= 20000
HTTP_BODIES ?= 3000
SEED     ?= 0
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --images $(IMAGES) --requests $(REQUESTS) \
		--examples $(EXAMPLES) --bodies $(BODIES) --http-bodies $(HTTP_BODIES) --seed $(SEED)

# With docker, podman or buildah, the first that works: make image TARGETS='cpu guard' BUILDER=podman
# IMAGE_OPTIONS go to the builder: --build-arg CPU_TORCH_INDEX_URL=..., --build-arg PYTHON_IMAGE=...
TARGETS       ?= cpu
BUILDER       ?= $(shell for name in docker podman buildah; do \
	$$name info > /dev/null 2>&1 && echo $$name && break; done)
IMAGE_OPTIONS ?=
# The others' own format has no place for a health check.
IMAGE_FORMAT   = $(if $(filter-out docker,$(notdir $(BUILDER))),--format docker)
image:
	@test -n "$(BUILDER)" || { echo "make image needs docker, podman or buildah, and none works"; exit 1; }
	for target in $(TARGETS); do \
		$(BUILDER) build $(IMAGE_FORMAT) $(IMAGE_OPTIONS) --target $$target --tag codefend:$$target \
			--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
			--build-arg REVISION="$$(git rev-parse HEAD)" . || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info
