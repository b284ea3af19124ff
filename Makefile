# Short names for what people do here. Anything longer than three lines lives in `cargo xtask`.

SHELL := /bin/bash
KNARR := target/release/knarr
DEMO  ?= /tmp/knarr-demo
SUDO  := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# What the build and the tests need from Debian.
DEPS  := gcc libc6-dev pkg-config libgpgme-dev liblzma-dev gpg gpgv xz-utils zstd uidmap qemu-user-static squashfs-tools e2fsprogs busybox-static mmdebstrap docker-registry skopeo openssl procps

.PHONY: all build deps demo test lint unit compare bench recipes fuzz clean

all: build

deps:
	@missing=(); for package in $(DEPS); do dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing+=($$package); done; \
	if [ $${#missing[@]} -gt 0 ]; then $(SUDO) apt-get update -q && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends "$${missing[@]}"; fi
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust (https://rustup.rs), then run this again" >&2; exit 1; }

build: deps
	cargo build --release --locked

# Bootstraps Debian from the real mirror, as a directory and as an OCI image, and runs a program of it; builds an
# image of nginx, which must serve a page before it gets its name.
demo: build
	$(SUDO) rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(SUDO) $(KNARR) bootstrap trixie $(DEMO)/trixie
	$(SUDO) $(KNARR) bootstrap trixie oci:$(DEMO)/image
	$(SUDO) chroot $(DEMO)/trixie sh -c '. /etc/os-release; echo "Hello from $$PRETTY_NAME, $$(dpkg -l | grep -c ^ii) packages"'
	$(SUDO) $(KNARR) build prod-nginx --store $(DEMO)/store
	$(SUDO) $(KNARR) images --store $(DEMO)/store

test: deps lint unit compare

# Our trees against those of the real mmdebstrap, path by path.
compare: unit
	KNARR_BINARY=target/debug/knarr cargo xtask compare trixie
	KNARR_BINARY=target/debug/knarr cargo xtask compare bookworm

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	if cargo deny --version >/dev/null 2>&1; then cargo deny --log-level error check bans licenses sources; fi
	cargo tree --locked --workspace --edges normal --prefix none | awk '$$1 ~ /^(aws-lc-sys|openssl-sys|liblzma-sys|prost|bindgen|cmake)$$/ { print "forbidden dependency: " $$1; bad = 1 } END { exit bad }'

unit:
	cargo build --locked
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace --locked --no-fail-fast; else cargo test --workspace --locked --no-fail-fast; fi

bench: build
	cargo xtask bench bootstrap

# Every ready recipe from the real mirror, built and verified twice; for the night. What they weigh: cargo xtask bench size.
recipes: build
	cargo xtask recipes

clean:
	cargo clean

# Coverage-guided fuzzing; needs a nightly toolchain and cargo-fuzz. Findings: docs/fuzzing.md.
FUZZ_SECONDS ?= 60
fuzz:
	for target in $$(cargo +nightly fuzz list); do mkdir -p fuzz/corpus/$$target; \
	cargo +nightly fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 -max_len=65536 \
	2>&1 | grep -E "number_of_executed|ERROR|panicked|Test unit" | sed "s/^/$$target: /"; done
