# Set-up from a clone: needs python3 (3.10 to 3.13, with venv), a C/C++ compiler and make.
# A machine with ROS does not need this file: see docs/install.md.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
TESTS ?= tests
export OMP_NUM_THREADS ?= $(shell nproc)

bin := $(VENV)/bin
hash = $(shell cat $(1) 2>/dev/null | sha256sum | cut -c1-16)
find = $(shell find $(1) -name __pycache__ -prune -o -type f -print 2>/dev/null | LC_ALL=C sort)

# A stamp's name contains a hash of its inputs: a step runs again only if they have changed.
requirement_files := constraints.txt pyproject.toml setup.py requirements/base.txt requirements/ros-jazzy.txt scripts/relocate_ros_wheels.py
deps_stamp := $(VENV)/.deps-$(call hash,$(requirement_files))
interface_files := CMakeLists.txt package.xml $(call find,msg srv action)
installed_names := $(shell echo "$(call find,models engine training penguin_ros launch scripts)" "$(CURDIR)" | sha256sum | cut -c1-16)
rtx_stamp := $(VENV)/.rtx-$(call hash,constraints.txt pyproject.toml)
ros_stamp := install/.built-$(call hash,$(interface_files) $(requirement_files))-$(installed_names)

# colcon builds from a folder of links, because CMake refuses a virtual environment inside the source folder.
ros_sources := CMakeLists.txt package.xml LICENSE msg srv action models engine training penguin_ros launch scripts
workspace := build/workspace/src/penguin_vl

ros_env := AMENT_PREFIX_PATH=$(CURDIR)/$(VENV) CMAKE_PREFIX_PATH=$(CURDIR)/$(VENV) PATH=$(CURDIR)/$(bin):$$PATH
with_ros := . install/setup.sh && export PATH=$(CURDIR)/$(bin):$$PATH &&

.DEFAULT_GOAL := help
.PHONY: help setup demo evaluate test lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

demo: $(ros_stamp) ## set up, then play a recorded table-top into the node, ask it, and score its answers
	@$(with_ros) penguin-vl demo

evaluate: $(deps_stamp) ## set up, then score penguin-tiny on two bags, and write a report
	@$(bin)/penguin-vl evaluate example

test: $(ros_stamp) $(rtx_stamp) lint ## set up, then linters, type checks and the whole test suite
	@$(with_ros) OMP_NUM_THREADS=1 python -m pytest -n auto -rs $(TESTS)

lint: $(deps_stamp) ## ruff and mypy
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy

setup: $(ros_stamp) ## set up: .venv with all packages, and the ROS package built into install/

$(deps_stamp): $(requirement_files)
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3,10) <= sys.version_info[:2] <= (3,13) else "Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	@rm -f $(VENV)/.deps-*
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@touch $(VENV)/COLCON_IGNORE
	$(bin)/pip install -q $(PIP_ARGS) -c constraints.txt setuptools wheel
	$(bin)/pip install -q $(PIP_ARGS) -c constraints.txt --no-build-isolation -r requirements/ros-jazzy.txt
	$(bin)/pip install -q $(PIP_ARGS) -c constraints.txt --no-build-isolation -e '.[dev]'
	@$(bin)/python scripts/relocate_ros_wheels.py $(VENV)
	@touch $@

# A TensorRT that builds without a GPU; pip skips it where there are no wheels (other systems than Linux x86-64).
$(rtx_stamp): $(deps_stamp)
	$(bin)/pip install -q $(PIP_ARGS) -c constraints.txt --no-build-isolation -e '.[tensorrt-rtx]'
	@touch $@

$(ros_stamp): $(deps_stamp)
	@rm -rf install/.built-* $(workspace)
	@mkdir -p $(workspace) && ln -s $(addprefix $(CURDIR)/,$(ros_sources)) $(workspace)
	$(ros_env) $(bin)/colcon --log-level error build --base-paths $(workspace) --symlink-install --event-handlers console_direct- \
		--cmake-args -DPython3_EXECUTABLE=$(CURDIR)/$(bin)/python -DPython3_FIND_VIRTUALENV=ONLY -DBUILD_TESTING=OFF
	@touch $@

clean: ## remove .venv, build, install and log
	rm -rf $(VENV) build install log
