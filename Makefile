# What people and CI call. `make` alone lists the targets.

.DEFAULT_GOAL := help
.PHONY: help build run test fmt lint docs unit process-tests sim seeded-bugs operator-mutations model fuzz images kube-lab kube-lab-down e2e bench bench-hot bench-relief bench-count bench-grow bench-micro load clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the release binary, target/release/cairn
	cargo build --release --locked

run: ## run a whole cluster on this machine until Ctrl-C
	cargo run --release --locked -- dev

test: ## everything that must hold before a change lands
	ci/run-tests

fmt: ## format the sources
	cargo fmt --all

lint: ## format check, dependency rules, determinism lint, tree rules, clippy
	ci/run-tests format dependencies "determinism lint" tree scripts
	cargo clippy --workspace --all-targets --locked -- -D warnings

docs: ## build the API documentation, warnings denied
	ci/run-tests docs

unit: ## unit and property tests
	ci/run-tests "unit tests"

process-tests: ## kill, stop, wipe and corrupt real processes
	ci/run-tests tools "client libraries" build "process tests" clients

SECONDS ?= 600

sim: ## run the simulator on fresh seeds, on all cores, for SECONDS (600)
	cargo run --profile sim --locked -p cairn-sim -- --seconds $(SECONDS)

SEEDS ?= 5000

seeded-bugs: ## see that the simulator finds bugs that are put in, with SEEDS (5000) for each
	ci/seeded-bugs --seeds $(SEEDS)

operator-mutations: ## take each rule of the operator out, and see that a test turns red
	ci/operator-mutations

model: ## try every order of events of one small partition, to the end
	cargo run --profile sim --locked -p cairn-model

FUZZ_SECONDS ?= 60

fuzz: ## try mutated inputs on everything that reads from outside, FUZZ_SECONDS (60) for each
	CAIRN_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --workspace --locked --lib --test round_trip -- --nocapture --test-threads=2 fuzz_

PROFILE ?= release

images: ## build the binaries into images, target/images/*.tar; PROFILE=dev makes those of the tests
ifeq ($(PROFILE),release)
	cargo build --release --locked -p cairn -p cairn-operator
else
	cargo build --workspace --locked
endif
	images/build --profile $(PROFILE) $(if $(TAG),--tag $(TAG))

NODES ?= 3

kube-lab: ## bring a Kubernetes of NODES (3) up on this machine and print how to use it
	@tests/kube/lab/lab up $(NODES)

kube-lab-down: ## end it
	@tests/kube/lab/lab down

e2e: ## the tests on Kubernetes: on the cluster of KUBECONFIG where that is set, else on a lab of their own
	cargo test --workspace --locked --test kubernetes -- --test-threads=1 --nocapture

bench: ## measure Cairn, etcd and Redis in turn, into bench/results; ARGS=--quick takes three minutes
	cargo build --release --locked -p cairn -p cairn-bench
	target/release/cairn-bench compare $(ARGS)

bench-hot: ## measure Cairn under hot keys, each data node held to a share of a processor; needs root
	cargo build --release --locked -p cairn -p cairn-bench
	target/release/cairn-bench hot $(ARGS)

bench-relief: ## measure how soon a hot key is found, relieved and at rest again; needs root
	cargo build --release --locked -p cairn -p cairn-bench
	target/release/cairn-bench relief $(ARGS)

bench-count: ## add to one counter through kills and other numbers of stripes; checks the sum
	cargo build --release --locked -p cairn -p cairn-bench
	target/release/cairn-bench count $(ARGS)

bench-grow: ## measure how Cairn's cost grows with partitions, nodes, keys, values, connections
	cargo build --release --locked -p cairn -p cairn-bench
	target/release/cairn-bench grow $(ARGS)

bench-micro: ## measure stages of the hot path alone
	cargo bench --locked -p cairn-bench $(if $(ARGS),-- $(ARGS))

load: ## measure a cluster that `make run` started
	cargo run --release --locked -- bench $(ARGS)

clean: ## remove what was built
	cargo clean
