# virtrng. `make` prints what there is; a target that is not in `make help` is not supported.
#
# Everything runs with Debian's own Python and Debian's own libraries, since libvirt
# runs the hook with them too. Only ruff and mypy come from PyPI, into .venv.

PYTHON := /usr/bin/python3
VENV := .venv
TOOLS := ruff==0.17.6 mypy==2.4.1
PYTEST := $(PYTHON) -m pytest
PIP_INSTALL := $(PYTHON) -m pip install --quiet --no-deps --no-index --no-build-isolation --root-user-action=ignore

# What virtrng imports when it runs; setup.cfg says what for.
RUN_PACKAGES := python3 python3-libvirt python3-usb python3-pyudev python3-lxml python3-jinja2 python3-rich python3-systemd python3-prometheus-client
# What checks it and installs it: pytest on all cores (three workers: some of it waits), which ends a test that stands still, hypothesis, a .venv for ruff and mypy, pip for `make install`.
CHECK_PACKAGES := python3-pytest python3-pytest-xdist python3-pytest-timeout python3-hypothesis python3-venv python3-pip python3-setuptools python3-wheel
# What the lab is made of: libvirt's daemon without its system integration (libvirt-daemon-system),
# so that none of the host's is started; systemd for systemd-analyze, which judges the unit; strace, which counts
# what feeders ask of the kernel.
LAB_PACKAGES := libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 systemd strace

# What the booted Debian of tests/host is made with.
HOST_PACKAGES := mmdebstrap e2fsprogs

# No byte code beside the sources: the tree may be another user's.
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help deps demo test test-unit test-lab test-host test-long check bench install uninstall
.DEFAULT_GOAL := help

help: ## print this
	@echo 'make TARGET, as root for all but check; the first run installs the Debian packages that are missing.'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

deps: ## install the Debian packages that are missing
	@./.ci/deps $(RUN_PACKAGES) $(CHECK_PACKAGES) $(LAB_PACKAGES) $(HOST_PACKAGES)

demo: deps ## the main job on this machine, from the key to a guest, touching nothing of its libvirt
	@$(PYTHON) -m tests.lab.demo

check: deps $(VENV)/tools ## lint, types and unit tests; needs no root once the packages are there
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST) -n 3 tests/unit

test: check ## every test: check, real libvirtd and guests in the lab, the service in a booted Debian (root)
	@$(MAKE) --no-print-directory --jobs=2 test-lab test-host  # both wait a lot

test-unit: deps ## the unit tests alone
	$(PYTEST) -n 3 tests/unit

test-lab: deps ## the tests under real libvirtd and guests alone (root)
	$(PYTEST) tests/lab

test-host: deps ## the tests of the service, under the systemd and udev of a booted Debian, alone (root)
	$(PYTEST) tests/host

test-long: deps ## the same tests with many times the examples, faults, sessions and guests (root)
	VIRTRNG_LONG=1 $(PYTEST) -n 3 tests/unit
	VIRTRNG_LONG=1 $(PYTEST) tests/lab

bench: deps ## figures side by side with peers, in one run
	@$(PYTHON) -m bench.fips
	@$(PYTHON) -m bench.entropykey
	@$(PYTHON) -m bench.guests
	@$(PYTHON) -m bench.hook
	@$(PYTHON) -m bench.feeder
	@$(PYTHON) -m bench.watch

install: deps ## install under /usr/local (PREFIX, DESTDIR)
	$(PIP_INSTALL) --break-system-packages --force-reinstall $(if $(PREFIX),--prefix=$(PREFIX)) $(if $(DESTDIR),--root=$(DESTDIR)) .

uninstall: ## remove what `make install` put there; configuration and hook stay (virtrng hook uninstall)
	$(PYTHON) -m pip uninstall --yes --break-system-packages --root-user-action=ignore virtrng
	@find $(or $(PREFIX),/usr/local)/share/virtrng -depth -type d -empty -delete 2> /dev/null || true  # pip leaves them

# The versions are in the name of the stamp: a new one is installed over the old.
$(VENV)/tools: Makefile
	@echo 'installing into $(VENV): $(TOOLS)'
	@$(PYTHON) -m venv --system-site-packages $(VENV)
	@$(VENV)/bin/pip install --quiet $(TOOLS)
	@touch $@
