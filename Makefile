# The two commands that matter: `make demo` and `make test`. Needs git, make and Python 3.11+; uses uv when it is installed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A process per core; tests that share compiled programs stay together (tests/conftest.py).
# A process that ends in a test (it crashed, or hung too long) ends them all: a new one would only run that test again.
WORKERS := -n auto --dist loadgroup --max-worker-restart 0
READY  := $(VENV)/.ready
# Tests start a hundred Pythons: without bytecode each would compile every library that it imports, 3 s instead of 1.
unexport PYTHONDONTWRITEBYTECODE
# Everything that the tests and the documentation use; a user needs none of them to train.
EXTRAS := dev,docs,export,loggers,minari,ogbench,ray,robotics,serve,tables,video

.PHONY: help demo test test-fast test-lowest test-newest test-long check docs format bench bench-all clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / \t/' | expand -t 14

# One rule builds the environment; it runs again only when the project's requirements change.
$(READY): pyproject.toml runtime/pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable runtime --editable '.[$(EXTRAS)]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable runtime --editable '.[$(EXTRAS)]'; \
	fi
	@touch $(READY)

demo: $(READY)   ## train DTQL on the bundled data and show how good the policy is (a few minutes on 2 cores)
	$(BIN)/tether train

test-fast: $(READY) ## run the tests that cost little (two to five minutes on 2 cores)
	$(BIN)/python -m pytest -q $(WORKERS) -m 'not long and not slow'

test: $(READY)   ## run the tests (12 minutes on 2 fast cores, half an hour on slow ones)
	$(BIN)/python -m pytest -q $(WORKERS)

# Environments of their own, beside the usual one. Extras that pin much (ray, loggers) are left out: their tests are skipped.
TIER   := dev,export,minari,ogbench,robotics,serve,tables,video
FAST   := -m pytest -q $(WORKERS) -m 'not long and not slow' -p no:cacheprovider
# Old libraries warn of what their successors changed: there no warning is an error.
LENIENT := -W default

test-lowest:     ## the fast tests with the lowest versions that pyproject.toml allows
	$(PYTHON) tools/lowest.py $(TIER) > .lowest.txt
	$(call environment,.venv-lowest,--constraint .lowest.txt)
	.venv-lowest/bin/python $(FAST) $(LENIENT)

test-newest:     ## the fast tests with the newest versions that there are
	$(call environment,.venv-newest,--upgrade)
	.venv-newest/bin/python $(FAST)

# A fresh environment: folder, how versions are chosen.
define environment
	@rm -rf $(1)
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --python $(PYTHON) $(1) && \
	  uv pip install --quiet --python $(1)/bin/python $(2) --editable runtime --editable '.[$(TIER)]'; \
	else \
	  $(PYTHON) -m venv $(1) && $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2) --editable runtime --editable '.[$(TIER)]'; \
	fi
endef

test-long: $(READY) ## run the tests that take minutes, too
	$(BIN)/python -m pytest -q $(WORKERS) -m 'long or not long' -o faulthandler_timeout=0

check: $(READY)  ## lint, formatting, types, who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)   ## build the documentation into site/, strictly and without the network (half a minute)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)  ## speed of six algorithms and of acting against this machine's limits (6 minutes); into bench/
	@mkdir -p bench
	$(BIN)/tether bench dtql dac bdpo iql td3-bc bc --lanes 1,4 --seconds 3 --out bench/bench.json --pictures bench
	$(BIN)/tether bench --act dtql --candidates 1,16,64,256,1024 --out bench/act.json

bench-all: $(READY) ## the same of every algorithm, 1 to 32 lanes (hours; goes on where it was stopped)
	@mkdir -p bench
	$(BIN)/tether bench --lanes 1,2,4,8,16,32 --out bench/all.json --pictures bench
	$(BIN)/tether bench --act --candidates 1,4,16,64,256,1024 --out bench/act-all.json

clean:           ## remove the environment and caches
	rm -rf $(VENV) .venv-lowest .venv-newest .lowest.txt site .pytest_cache .ruff_cache
