# finetcp
#
#   make help              what can be made
#   make KDIR=/path/to/linux-build
#                          the module, for a kernel tree with finetcp's patches
#
# This Makefile only starts things: what a file is built from is in Kbuild,
# which the kernel's own build system reads, and everything that needs tools
# beyond make runs in the build environment that scripts/env makes. Nothing is
# built in the checkout but by "make KDIR=...".

SHELL := /bin/bash
ENV := scripts/env --

# The running kernel's tree, if there is one
KDIR ?= $(wildcard /lib/modules/$(shell uname -r)/build)
kconfig = $(firstword $(wildcard $(KDIR)/include/config/auto.conf $(KDIR)/.config))
has = $(shell grep -qs '^$(1)=y' '$(kconfig)' && echo y)
# The module must be built with the compiler family that built the kernel.
llvm = $(if $(call has,CONFIG_CC_IS_GCC),,LLVM=1)
kbuild = +$(MAKE) -C '$(KDIR)' M='$(CURDIR)' $(llvm)

rust_files = $(shell find src rust tests -name '*.rs' -not -path '*/target/*' 2>/dev/null)

.PHONY: all help modules modules_install clean kernels demo sim test soak oracle bench check fmt \
	fmt-check clippy

all: modules

help:
	@echo 'The module, for a kernel with finetcp'"'"'s patches:'
	@echo '  make KDIR=DIR                  build finetcp.ko here against the kernel tree DIR'
	@echo '  make KDIR=DIR modules_install  install it into /lib/modules of that kernel'
	@echo '  make clean                     remove what these two left here'
	@echo
	@echo 'Everything else sets up its own build environment and kernels, once, under'
	@echo '$${XDG_CACHE_HOME:-~/.cache}/finetcp, and shows how far it is:'
	@echo '  make demo                      incast with and without finetcp, from nothing'
	@echo '  make sim ARGS="..."            a fabric and workload of your own (scripts/incast --help)'
	@echo '  make test                      all that a change must pass'
	@echo '  make soak                      faults, attacks and loads at random, for SOAK_MINUTES (20) a guest'
	@echo '  make oracle                    scenarios from seeds, against stock: what differs? (ARGS="--help")'
	@echo '  make bench                     the figures that count, old beside new: Documentation/results.rst'
	@echo '  make bench-NAME                a measurement: results/NAME.csv and a plot'
	@echo '  make kernels                   the kernels that the above boot'
	@echo '  make check                     style: patches, shell and Rust; each patch builds'
	@echo '  make fmt, fmt-check, clippy    Rust, by the kernel'"'"'s own rules'
	@echo
	@echo 'Benchmarks: $(patsubst scripts/%,%,$(wildcard scripts/bench-*))'
	@echo 'Also of use: scripts/vm, scripts/sim, scripts/kernel, scripts/env (each with --help)'

# One sentence for a kernel that cannot be served, not a page of errors.
.PHONY: kdir
kdir:
	$(if $(KDIR),,$(error KDIR is not set and the running kernel has no build tree: name a kernel tree with KDIR=DIR, or see "make help"))
	$(if $(kconfig),,$(error $(KDIR) is not a configured kernel tree))
	$(if $(call has,CONFIG_RUST),,$(error the kernel in $(KDIR) is built without CONFIG_RUST, which finetcp needs))
	$(if $(call has,CONFIG_TCP_HIGH_RES_TIMERS),,$(error the kernel in $(KDIR) lacks finetcp's patches (patches/), or is configured without CONFIG_TCP_HIGH_RES_TIMERS))
	@:

modules: kdir
	$(kbuild) modules

modules_install: kdir
	$(kbuild) modules_install

clean:
	rm -rf *.o *.ko *.mod *.mod.c .*.cmd .*.d .module-common.o .tmp_* Module.symvers modules.order
	@for d in src rust; do [ ! -d $$d ] || find $$d \( -name '*.o' -o -name '.*.cmd' -o -name '.*.d' -o -name '*.rmeta' \) -delete; done

kernels:
	scripts/kernel all

demo:
	scripts/demo

sim:
	scripts/incast $(ARGS)

test:
	tests/run

bench:
	scripts/bench

soak:
	tests/soak

oracle:
	tests/oracle/run $(ARGS)

bench-%: scripts/bench-%
	$(ENV) $<

check:
	scripts/check

# The kernel's own rustfmt rules; rustfmt itself comes with the environment.
fmt fmt-check:
	$(if $(rust_files),,$(error no Rust files found))
	@tree=$$(scripts/kernel tree stock) && \
	$(ENV) rustfmt $(if $(findstring check,$@),--check) --edition 2021 \
		--config-path "$$tree/.rustfmt.toml" $(rust_files)

clippy:
	scripts/kernel clippy um-patched
