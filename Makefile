# tdx-tools: build, check, test, show.  `make help` lists the targets.
#
# Nothing here uses sudo. Targets that install packages or start a libvirtd of their own
# (test, test-rigs, bench, demo) want root; as an ordinary user, `make test` runs what it can.

PREFIX  ?= /usr/local
DESTDIR ?=
TOOLS   := tdx-disk tdx-gpu tdx-iommu tdx-pool tdx-td
RUST    := 1.89

# Cases of each property in make fuzz; tests try 256.
FUZZ_CASES ?= 1000000

# Test files that make test leaves to make test-rigs, and --all-targets leaves out.
RIGS    := $(addprefix --test ,access attestation disk_rig gpu gpu_tools iommu_rig passthrough tdx_rig tune)

RELEASE := target/release
ROOT    := $(filter 0,$(shell id -u))

.PHONY: help build release install check test test-rigs fuzz bench demo clean rust packages

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: rust ## build for development
	cargo build --workspace --locked

release: rust ## build what is installed
	cargo build --release --locked $(TOOLS:%=-p %)

install: release ## install the tools under PREFIX, below DESTDIR
	install -D -t $(DESTDIR)$(PREFIX)/bin $(TOOLS:%=$(RELEASE)/%)

check: rust packages ## formatting, lints, documentation; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --locked $(RIGS) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

test: rust packages ## unit, command-line and libvirt tests; installs what they need
	cargo build --workspace --locked
	cargo test --workspace --locked --no-fail-fast -- $(if $(ROOT),--include-ignored)
	@$(if $(ROOT),,echo "the tests counted as ignored need root and were not run")

test-rigs: rust packages ## tests on a real IOMMU, a TDX-capable libvirt and with a Debian guest; as root
	cargo build --workspace --locked
	cargo test --locked --no-fail-fast -p tdx-iommu --test iommu_rig -p tdx-gpu --test gpu \
		-p tdx-disk --test disk_rig -- --include-ignored
	cargo test --locked --no-fail-fast -p tdx-td --test passthrough --test tune --test tdx_rig \
		--test attestation --test access -- --include-ignored

fuzz: rust ## a million cases of everything that reads what others wrote; FUZZ_CASES says how many
	PROPTEST_CASES=$(FUZZ_CASES) cargo test --profile fuzz --workspace --locked --lib -- panic

bench: packages release ## measure against what one would otherwise run
	tests/bench/run $(RELEASE)

demo: packages release ## a guest from image to nothing left, on a private libvirtd
	PATH="$(CURDIR)/$(RELEASE):$$PATH" examples/demo

clean: ## remove everything that was built
	cargo clean

# Debian's own Rust is too old; say so before cargo says it in its way.
rust:
	@have=$$(cargo --version 2>/dev/null | cut -d' ' -f2); \
	if [ "$$(printf '%s\n' $(RUST) "$${have:-0}" | sort -V | head -n 1)" != $(RUST) ]; then \
		echo "tdx-tools needs Rust $(RUST) or newer, this is $${have:-none}: see https://rustup.rs" >&2; \
		exit 1; \
	fi

packages:
	@tests/rig/install $(if $(ROOT),,--check)
