# What a newcomer and the CI call. Needs python3 (3.10 or later, with its venv module), make and a C compiler; cmake, ninja and
# everything else come from pip.
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
DEMO_OUT := build/demo
SHIPPED := models/shipped/vgg_small_fashion_mnist
SHIPPED_MST := models/shipped/vgg_small_mst_fashion_mnist
IMAGES := models/shipped/fashion_mnist_test500.npz

# What the installed library is built from; Python files are used where they lie.
LIBRARY_SOURCES := CMakeLists.txt $(shell find runtime -name CMakeLists.txt -o -name '*.[ch]')
C_SOURCES := $(shell find runtime tests -name '*.[ch]')
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test lint clean
.DELETE_ON_ERROR:

## setup: .venv with the project, its optional parts and the tools of its tests
setup: $(VENV)/.installed

## demo: compiles a shipped network, verifies it on real images and measures it; then the same network trained for
##       the spanning tree, against the float model and against the first (no PyTorch)
demo: $(DEMO_VENV)/.installed
	mkdir -p $(DEMO_OUT)
	$(DEMO_VENV)/bin/bnncc compile $(SHIPPED).onnx -o $(DEMO_OUT)/vgg_small.bnncc.onnx --data $(IMAGES) \
	    --report $(DEMO_OUT)/report.json
	$(DEMO_VENV)/bin/bnncc verify $(SHIPPED).onnx $(DEMO_OUT)/vgg_small.bnncc.onnx --data $(IMAGES)
	$(DEMO_VENV)/bin/bnncc bench $(DEMO_OUT)/vgg_small.bnncc.onnx --against $(SHIPPED).onnx --threads 1
	$(DEMO_VENV)/bin/bnncc compile $(SHIPPED_MST).onnx -o $(DEMO_OUT)/vgg_small_mst.bnncc.onnx --data $(IMAGES)
	$(DEMO_VENV)/bin/bnncc bench $(DEMO_OUT)/vgg_small_mst.bnncc.onnx --against $(SHIPPED_MST).onnx --threads 1
	$(DEMO_VENV)/bin/bnncc bench $(DEMO_OUT)/vgg_small_mst.bnncc.onnx --against $(DEMO_OUT)/vgg_small.bnncc.onnx \
	    --threads 1 --batch 8

## test: every test, those of the C library as it is shipped and with the sanitizers included
test: setup
	$(VENV)/bin/python -m pytest

## lint: formats and rules of both languages, and a build whose warnings are errors
lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/clang-format --dry-run -Werror $(C_SOURCES)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake -S . -B build/lint -G Ninja -DBNNCC_WERROR=ON -DBNNCC_BUILD_TESTS=ON \
	    --log-level=WARNING
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cmake --build build/lint

## clean: removes what make made, the environments included
clean:
	rm -rf build dist $(VENV) $(DEMO_VENV)

$(VENV)/.installed: EXTRAS := [models,test]
$(DEMO_VENV)/.installed: EXTRAS :=

# An environment with the project, what it needs, and the library built from the sources as they are.
%/.installed: pyproject.toml constraints.txt $(LIBRARY_SOURCES)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.10 or later" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "$(PYTHON) is too old: bnncc needs Python 3.10 or later" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || { echo "no C compiler: install one (Debian: apt install gcc)" >&2; exit 1; }
	@test -x $*/bin/python || $(PYTHON) -m venv $*
	$*/bin/python $(INSTALL) --editable '.$(EXTRAS)'
	@touch $@
