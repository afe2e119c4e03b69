# tdx-tools: build, check, test, show.  `make help` lists the targets.
#
# Nothing here uses sudo. Targets that install packages or start a libvirtd of their own
# (test, test-rigs, test-full, bench, demo) want root; as an ordinary user, `make test` runs what it can.

PREFIX  ?= /usr/local
DESTDIR ?=
# Where shells look for completion scripts, and manual and examples belong.
SHARE   := $(PREFIX)/share
BASH    := $(SHARE)/bash-completion/completions
ZSH     ?= $(SHARE)/zsh/site-functions
FISH    := $(SHARE)/fish/vendor_completions.d
MAN     := $(SHARE)/man/man1
DOC     := $(SHARE)/doc/tdx-tools
# All but the demonstration, which runs on the tests' own libvirtd.
EXAMPLES := $(filter-out examples/demo,$(shell find examples -type f))
TOOLS   := tdx-attest tdx-disk tdx-gpu tdx-iommu tdx-pool tdx-td
RUST    := 1.89

# The tests run in two halves at the same time: they wait for guests and daemons more than they compute.
UNITTESTS := --lib --bin manual
TESTS     := --test attest --test cli --test disk --test gpu --test iommu --test pool --test td
LONGTESTS := --test reliability --test docs
RIGS      := --test disk_rig --test docs_rig --test gpu_rig --test iommu_rig
LONGRIGS  := --test td_rig
CARGOTEST := cargo test --workspace --locked --no-fail-fast

# Cases of each property in make fuzz; tests try 256.
FUZZ_CASES ?= 1000000

# Every script for a shell that git knows, by its first line.
SCRIPTS  = $(shell git ls-files -z | xargs -0 awk 'FNR == 1 { if (/^\#!.*[\/ ](ba|da)?sh( |$$)/) print FILENAME; nextfile }')

# What nobody writes here any more.
PHRASES := tests/docs/retired-phrases.txt

# What make release, install and deb build with: release is small and takes minutes, quick takes one.
PROFILE ?= release
TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/$(PROFILE)
# What a package is called: of a commit that no tag names, how many came before it and which it is.
# Its times are the commit's.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
COMMIT  := $(shell git describe --exact-match --match v$(VERSION) >/dev/null 2>&1 || \
	git log -1 --format=+$$(git rev-list --count HEAD).g%h --abbrev=8 2>/dev/null)
EPOCH   := $(shell git log -1 --format=%ct 2>/dev/null)
DAY     := $(if $(EPOCH),$(shell date -u -d @$(EPOCH) +%F))
ROOT    := $(filter 0,$(shell id -u))

.PHONY: help build release man reference docs install uninstall deb check audit test test-short test-long test-rigs test-rigs-short test-rigs-long test-full fuzz bench demo clean rust libraries packages

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: rust libraries ## build for development
	cargo build --workspace --locked

release: rust libraries ## build what is installed
	cargo build --profile $(PROFILE) --locked $(TOOLS:%=-p %)

man: rust libraries ## write the manual pages to target/man, and target/THIRD-PARTY.md
	cargo build --profile $(PROFILE) --locked $(TOOLS:%=-p %) -p manual
	rm -rf $(TARGET)/man
	$(RELEASE)/manual $(TARGET)/man $(DAY)
	$(RELEASE)/manual --notices >$(TARGET)/THIRD-PARTY.md

reference: rust libraries ## write the pages of docs/reference that are made of the sources, and docs/terminal.svg
	rm -rf docs/reference/verbs
	cargo run --quiet --locked -p manual -- --reference . docs/reference
	docs/picture README.md >docs/terminal.svg

docs: ## build a site of the documentation in target/book, with mdBook
	@mdbook --version >/dev/null 2>&1 || { \
		echo "mdBook is not installed: cargo install --locked mdbook" >&2; exit 1; }
	rm -rf $(TARGET)/book-source && cp -R docs $(TARGET)/book-source
	for page in docs/reference/verbs/*.md; do \
		name=$$(basename $$page .md) && echo "- [$$name](reference/verbs/$$name.md)" || exit; \
	done >>$(TARGET)/book-source/SUMMARY.md
	mdbook build $(TARGET)/book-source --dest-dir $(abspath $(TARGET)/book)

install: man ## install tools, manual, completions and examples under PREFIX, below DESTDIR
	install -D -t $(DESTDIR)$(PREFIX)/bin $(TOOLS:%=$(RELEASE)/%)
	install -D -m 0644 -t $(DESTDIR)$(MAN) $(TARGET)/man/*.1
	install -d $(addprefix $(DESTDIR),$(BASH) $(ZSH) $(FISH))
	for tool in $(TOOLS); do \
		$(RELEASE)/$$tool completions bash >$(DESTDIR)$(BASH)/$$tool && \
		$(RELEASE)/$$tool completions zsh >$(DESTDIR)$(ZSH)/_$$tool && \
		$(RELEASE)/$$tool completions fish >$(DESTDIR)$(FISH)/$$tool.fish || exit; \
	done
	install -D -m 0644 -t $(DESTDIR)$(DOC) README.md CHANGELOG.md LICENSE $(TARGET)/THIRD-PARTY.md
	for file in $(EXAMPLES); do \
		install -D -m $$([ -x $$file ] && echo 755 || echo 644) $$file $(DESTDIR)$(DOC)/$$file || exit; \
	done

uninstall: ## remove what install has put there
	rm -f $(TOOLS:%=$(DESTDIR)$(PREFIX)/bin/%) $(TOOLS:%=$(DESTDIR)$(MAN)/%.1) $(TOOLS:%=$(DESTDIR)$(MAN)/%-*.1)
	rm -f $(TOOLS:%=$(DESTDIR)$(BASH)/%) $(TOOLS:%=$(DESTDIR)$(ZSH)/_%) $(TOOLS:%=$(DESTDIR)$(FISH)/%.fish)
	rm -rf $(DESTDIR)$(DOC)

deb: rust libraries ## make Debian packages in target/deb
	rm -rf $(TARGET)/deb
	$(MAKE) install DESTDIR=$(TARGET)/deb/root PREFIX=/usr ZSH=/usr/share/zsh/vendor-completions
	SOURCE_DATE_EPOCH=$(EPOCH) packaging/deb/build $(TARGET)/deb/root $(VERSION)$(COMMIT) $(TARGET)/deb

check: rust packages ## formatting, lints, scripts, documentation; warnings are errors
	cargo fmt --all --check
	shellcheck --external-sources --source-path=SCRIPTDIR $(SCRIPTS)
	git grep -n -F -f $(PHRASES) -- ':!$(PHRASES)'; [ $$? = 1 ] # 1: nothing found
	cargo clippy --workspace --profile test --lib --bins --test '*' --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

audit: rust ## advisories about the crates that are used; needs the network, and is for people
	@cargo audit --version >/dev/null 2>&1 || { \
		echo "cargo-audit is not installed: cargo install --locked cargo-audit" >&2; exit 1; }
	cargo audit

test: rust packages ## unit, command-line and libvirt tests; installs what they need
	cargo build --workspace --all-targets --locked
	$(MAKE) --jobs=2 --keep-going test-short test-long
	$(CARGOTEST) --doc
	@$(if $(ROOT),,echo "the tests counted as ignored need root and were not run")

# Twice as many as there are processors: the tests wait more than they compute.
test-short test-long: export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))

# Unit tests one by one: a program that another test starts has copies of the descriptors of locks until its exec(2).
test-short:
	RUST_TEST_THREADS=1 $(CARGOTEST) $(UNITTESTS) -- $(if $(ROOT),--include-ignored)
	$(CARGOTEST) $(TESTS) -- $(if $(ROOT),--include-ignored)

test-long:
	$(CARGOTEST) $(LONGTESTS) -- $(if $(ROOT),--include-ignored)

test-rigs: rust packages libraries ## tests on a real IOMMU, a TDX-capable libvirt and with a Debian guest; as root
	cargo build --profile quick --locked $(TOOLS:%=-p %) -p manual
	$(MAKE) --jobs=2 --keep-going test-rigs-short test-rigs-long

test-rigs-short test-rigs-long: export TDX_BIN_DIR := $(abspath $(TARGET)/quick)

test-rigs-short:
	$(CARGOTEST) $(RIGS) -- --include-ignored

test-rigs-long:
	$(CARGOTEST) $(LONGRIGS) -- --include-ignored

test-full: rust packages release ## long tests: commands at the same time, crowds, every step killed; as root, takes hours
	cargo build --workspace --all-targets --locked
	TDX_ROUNDS=30 cargo test --locked --workspace --test reliability -- --include-ignored --nocapture hostile::
	TDX_ROUNDS=30 cargo test --locked --workspace --test gpu -- --include-ignored --nocapture same_time
	TDX_ROUNDS=100 cargo test --locked --workspace --test td -- --include-ignored odd_directories
	TDX_SECONDS=120 cargo test --locked --workspace --test reliability -- --include-ignored --nocapture crowd::
	TDX_BITS=full cargo test --locked --profile fuzz --package tdx-attest --test attest -- bit
	TDX_CRASH=full cargo test --locked --workspace --test reliability -- --include-ignored crash:: faults::
	TDX_CRASH=full TDX_BIN_DIR=$(abspath $(RELEASE)) cargo test --locked --workspace --test gpu_rig --test td_rig -- --include-ignored killed_at_any_step
	TDX_PROFILE=release cargo test --locked --workspace --test docs_rig -- --include-ignored packaging_rig::
	TDX_ROUNDS=70 TDX_BIN_DIR=$(abspath $(RELEASE)) cargo test --locked --workspace --test gpu_rig -- --include-ignored --nocapture parallel_rig::
	$(MAKE) fuzz

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

# What the build needs beside Rust: cargo would tell of it in a page, and only at the end.
libraries:
	@packages=; \
	command -v cc >/dev/null || packages="$$packages gcc libc6-dev"; \
	command -v pkg-config >/dev/null || packages="$$packages pkg-config"; \
	pkg-config --exists libvirt 2>/dev/null || packages="$$packages libvirt-dev"; \
	[ -n "$$packages" ] || exit 0; \
	install='apt-get install'; \
	if ! command -v apt-get >/dev/null; then \
		packages=$$(echo "$$packages" | sed 's/ libc6-dev//; s/libvirt-dev/libvirt-devel/; s/pkg-config/pkgconf-pkg-config/'); \
		install="$$(basename "$$(command -v dnf || command -v zypper || echo dnf)") install"; \
	fi; \
	echo "tdx-tools needs packages that are not installed: $$install$$packages" >&2; \
	exit 1

packages:
	@tests/rig/install $(if $(ROOT),,--check)
