# What the README and the continuous integration call.

.DEFAULT_GOAL := help
.PHONY: help run servers build demo test sim rows soak check bench

CARTULARY := target/release/cartulary

# Lets tests end a process at a named place; no other build knows of them.
FAIL_POINTS := --features fail-points

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: servers build ## Run the whole platform (ARGS="--port 9000 --data-dir /path")
	@exec $(CARTULARY) dev $(ARGS)

servers: ## Install nats-server and Postgres where they are missing
	@infra/local/install-servers.sh

build: ## Build target/release/cartulary
	cargo build --release --locked --bin cartulary

demo: servers build ## Walk through a purchase and a declined one (CARTULARY_URL= for a running shop)
	@$(CARTULARY) demo $(ARGS)

test: servers ## Run every test
	cargo test --locked --workspace $(FAIL_POINTS)

sim: ## Simulated commands and checkouts in which everything goes wrong (SEEDS=20000 or SEEDS=900000..920000)
	@SEEDS="$(SEEDS)" cargo test --locked --profile sim --package simulation -- f05_every whatever_goes_wrong --nocapture

rows: servers ## Some of them through the projections and Postgres, with workers that die (SEEDS=1000)
	@SEEDS="$(SEEDS)" cargo test --locked --workspace $(FAIL_POINTS) --test system -- histories::rows --nocapture

soak: servers ## Kills, power cuts, full disks and lost connections under load (MINUTES=10 for each, ONLY=row_02)
	@SOAK_MINUTES="$(MINUTES)" cargo test --locked --workspace $(FAIL_POINTS) --test system -- \
		$(or $(ONLY),faults::) --ignored --nocapture --test-threads 1

check: ## Formatting, lints, and the tidy test
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets $(FAIL_POINTS) -- --deny warnings
	cargo test --locked --workspace $(FAIL_POINTS) --test system tidy

bench: servers ## Measure (ONLY=write or ONLY=write/hot-sku, QUICK=1)
	@ONLY="$(ONLY)" QUICK="$(QUICK)" cargo bench --locked --bench figures
