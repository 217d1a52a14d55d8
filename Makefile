# Everything here sets itself up: python3 and make are all that has to be there. See docs/embedded-platform.md.
PYTHON := .venv/bin/python
PARTS := workloads/common workloads/gateway workloads/cdc workloads/data examples/crm operator local tests
YAML := $(wildcard crds examples operator/rbac)
KERNEL := .venv/bin/kernel

.DEFAULT_GOAL := help
.PHONY: help demo up down test e2e soak lint bench clean environment

help: ## print this
	@sed -n 's/^\([a-z0-9]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: environment ## start everything, apply the examples, and prove by asking each system what is there
	@$(KERNEL) demo

up: environment ## start the embedded platform and leave it running (the first time builds the API server: minutes)
	@$(KERNEL) up

down: environment ## stop it; data is kept
	@$(KERNEL) down

# Each part has servers of its own, so that what one does to them is no other's; 5 says that -k chose none of a part's.
test: environment ## run all tests, on real servers that start and end with the run (ARGS='-k valkey' to choose)
	@failed=; for part in $(PARTS); do echo "== $$part"; $(PYTHON) -m pytest $$part $(ARGS) || [ $$? = 5 ] || failed="$$failed $$part"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

e2e: environment ## run only the end-to-end tests
	@$(PYTHON) -m pytest tests/e2e $(ARGS)

soak: environment ## run the long tests: storms, kills after each external write, large transactions (half an hour)
	@failed=; for part in $(PARTS); do $(PYTHON) -m pytest -m soak $$part $(ARGS) || [ $$? = 5 ] || failed="$$failed $$part"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

lint: environment ## check format, style, types, import directions and YAML
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m yamllint --strict -c .yamllint $(YAML)

bench: environment ## measure against the limits and the references (NAME=operator for one)
	@$(PYTHON) -m bench $(NAME)

clean: ## stop the default platform, remove its data and .venv; the cache (built and fetched programs) stays
	@if [ -x $(KERNEL) ]; then $(KERNEL) down --delete-data; fi
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

environment:
	@scripts/bootstrap
