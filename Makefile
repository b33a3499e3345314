# The whole of Slipway's workshop. `make demo` and `make test` are all that a newcomer needs; both install what is
# missing first, from the distribution's own packages, and say so.

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := build

GO      ?= go
BIN     := $(CURDIR)/bin
ARCH    := $(shell $(GO) env GOARCH)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo "sudo env PATH=$$PATH")

LDFLAGS := -s -w -X slipway/internal/version.version=$(VERSION) -X slipway/internal/version.commit=$(COMMIT)
SHIM    := internal/shim/bin/slipway-shim-linux-$(ARCH)

# What Slipway runs with, what building and testing it needs on top, as Debian and Ubuntu call it.
RUN_PACKAGES   := ca-certificates git iproute2 nftables
BUILD_PACKAGES := gcc libc6-dev libseccomp-dev pkg-config
DEMO_PACKAGES  := busybox-static
TEST_PACKAGES  := buildah busybox-static chromium postgresql skopeo

.PHONY: build
build: $(SHIM) ## build bin/slipway, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/slipway ./cmd/slipway

# The shim runs inside every step's container. It is embedded into slipway, so it is built first.
.PHONY: $(SHIM)
$(SHIM):
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@ ./cmd/slipway-shim

.PHONY: cluster
cluster: ## build upstream Kubernetes and its node into bin/cluster
	sh cluster/build.sh $(BIN)/cluster
	ln -sf cluster/runc $(BIN)/runc

.PHONY: gitea
gitea: ## build Gitea, for tests
	sh gitea/build.sh $(BIN)

.PHONY: distribution
distribution: ## build the distribution registry, for tests
	sh distribution/build.sh $(BIN)

.PHONY: clients
clients: ## unpack docker and podman and build regctl into bin/clients, for tests
	sh clients/build.sh $(BIN)/clients

.PHONY: versitygw
versitygw: ## build the Versity S3 gateway, for tests
	sh versitygw/build.sh $(BIN)

# install PACKAGES installs those that are missing, and says what it is about to do.
define install
	@missing=$$(dpkg-query -W -f '$${Package} $${db:Status-Status}\n' $(1) 2>/dev/null | awk '$$2=="installed"{print $$1}' | sort > /tmp/slipway-have.$$$$; \
		printf '%s\n' $(1) | sort | comm -23 - /tmp/slipway-have.$$$$; rm -f /tmp/slipway-have.$$$$); \
	if [ -n "$$missing" ]; then \
		echo "installing from the distribution:" $$missing; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: demo-packages test-packages
demo-packages:
	$(call install,$(RUN_PACKAGES) $(BUILD_PACKAGES) $(DEMO_PACKAGES))
test-packages:
	$(call install,$(RUN_PACKAGES) $(BUILD_PACKAGES) $(TEST_PACKAGES))

.PHONY: demo
demo: demo-packages build cluster ## a push rolls out on real Kubernetes; ONCE=1 tears all down and exits with the result
	CGO_ENABLED=0 $(GO) build -o $(BIN)/slipway-demo ./cmd/slipway-demo
	$(SUDO) $(BIN)/slipway-demo $(if $(ONCE),--once)

.PHONY: test
test: test-packages build cluster gitea distribution versitygw clients ## every test, the real parts included
	@./test.sh

.PHONY: lint
lint: ## formatting and linters
	$(GO) build -modfile=tools.mod -o $(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	$(BIN)/golangci-lint run --timeout 20m ./...
	$(GO) vet ./...

.PHONY: bench
bench: test-packages build cluster ## the benchmarks, as ratios against a named peer
	./bench/run.sh

FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: ## every fuzzer, FUZZTIME each
	@grep -rl --include='*_test.go' '^func Fuzz' internal | xargs -n1 dirname | sort -u | while read -r dir; do \
		grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | awk '{print $$2}' | while read -r name; do \
			echo "$$dir $$name"; $(GO) test ./$$dir -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) || exit 1; \
		done || exit 1; \
	done

.PHONY: vuln
vuln: ## known vulnerabilities of what we use; needs the network
	$(GO) tool -modfile=tools.mod govulncheck ./...

.PHONY: help
help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 12
