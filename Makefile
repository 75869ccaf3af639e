# The golden path; each line calls a script or cargo, and those say what they do. SHORT=1 and SEED=n reach the long measurements.

.PHONY: help bootstrap up smoke down test fmt lint bench storm scale serving eval prove fuzz failpoints mutants

help: ## What there is
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

bootstrap: ## Install what the build needs, and build
	@scripts/bootstrap

up: ## Start a gateway with a demo tenant on 127.0.0.1:8080
	@scripts/up

smoke: ## Probe the running gateway
	@scripts/smoke

down: ## Stop what `make up` started
	@scripts/down

test: ## Everything a change must pass
	@scripts/test

fmt: ## Format
	@cargo fmt --all

lint: ## What `make test` checks before it runs tests
	@cargo fmt --all --check && cargo xtask tidy && cargo xtask arrows && cargo clippy --workspace --all-targets -- -D warnings

bench: ## Beside nginx and direct, in one run
	@scripts/measure bench

storm: ## Thousands of requests, kill -9, one cap: never over
	@scripts/measure storm

scale: ## A hundred thousand tenants and ten million events beside ten tenants
	@scripts/scale

serving: ## Models that run here under load: goal, flood, spike, cold start, workers killed and stalled
	@scripts/serving

eval: ## The use cases by their eval sets and public data, and an embedding beside onnxruntime and candle
	@scripts/eval

prove: ## Models of the money protocol, to their last state, and the guard for all inputs; broken ones must be noticed
	@scripts/prove

fuzz: ## Every parser of outside input, fed what nobody should send
	@scripts/fuzz

failpoints: ## The store fails, and is killed, at every point between two writes
	@scripts/failpoints
mutants: ## Break the ledger, one line at a time, and see that its tests notice
	@scripts/mutants
