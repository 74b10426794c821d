# Every target makes what it needs: the virtual environment, the packages in it and the library.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
MODELS := .venv-models
RESULTS := benchmarks/results
# Folders too: their times tell of files added or taken away.
SOURCES := setup.py pyproject.toml $(shell find csrc)
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')

# Compiling the CUDA kernels takes minutes, so only the targets that are for them do.
export TORCH_FULLCONV_CUDA ?= 0
# A Python that has a CUDA torch; a GPU need not be there.
CUDA_PYTHON ?= .venv-cuda/bin/python
NVCC := $(if $(CUDA_HOME),$(CUDA_HOME)/bin/,)nvcc
# Those of setup.py; torch's headers are the same on every processor.
AARCH64_CXX ?= aarch64-linux-gnu-g++
AARCH64_FLAGS := -std=c++20 -O3 -fno-math-errno -fno-trapping-math -fvisibility=hidden -Wall -Wno-psabi
TORCH_INCLUDES := $(BIN)/python -c "from torch.utils.cpp_extension import include_paths; \
  print(*('-I' + path for path in include_paths()))"
# Before the kernels are compiled for it.
NEED_GPU := $(BIN)/python -c "import torch; torch.cuda.is_available() or exit( \
  f'no GPU is found by the torch {torch.__version__} in .venv: it needs one, and a torch with CUDA')"
GPU_TESTS := $(addprefix tests/test_,ops.py formats.py autograd.py func.py functional.py modules.py \
  convert.py opinfo.py compile.py pooling.py relu.py)

# Of the engine alone, on plain threads: ThreadSanitizer knows nothing of torch's OpenMP.
ENGINE := $(addprefix csrc/cpu/,contractions.cpp layers.cpp engine_baseline.cpp) \
  tests/stress/threads/threads.cpp
ENGINE_FLAGS := -std=c++20 -O1 -g1 -pthread -Wno-psabi -Icsrc -Itests/stress/threads
ADDRESS_FLAGS := -fsanitize=address,undefined
# Python and torch leave memory to the end of the process.
ADDRESS_OPTIONS = LD_PRELOAD="$(foreach l,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(l).so))" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  PYTHONPATH=build/address/lib

.PHONY: help train bench figures screenshots docs test test-compiler sanitize stress lock reproducible models \
  versions aarch64 known-cases lint format wheel clean cuda-emulator \
  cuda-kernels cuda-check cuda-library cuda-test cuda-bench

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(INSTALLED) ## train LeNet on 5,000 digits, with these layers and with nn.Conv2d
	$(BIN)/python examples/train.py

bench: $(INSTALLED) ## time layers and models against stock PyTorch, some 11 minutes
	$(BIN)/python -m torch_fullconv bench --threads 1 2 --dtype float32 float64 bfloat16 \
	  --json $(RESULTS)/figures.json --markdown $(RESULTS)/tables.md --plots $(RESULTS)

figures: $(INSTALLED) ## draw the pictures in docs/figures
	$(BIN)/python -m torch_fullconv.explanation.figures docs/figures

screenshots: $(INSTALLED) ## take pictures of the interactive page (needs chromium and chromedriver)
	$(BIN)/python tests/screenshots.py docs/screenshots

docs: $(INSTALLED) ## build the documentation in build/site
	$(BIN)/mkdocs build --strict

test: $(INSTALLED) ## run all tests, two files at a time, and alone those that measure time
	$(BIN)/pytest -n 2 --dist loadfile --ignore=tests/test_promises.py
	$(BIN)/pytest tests/test_promises.py

test-compiler: $(INSTALLED) ## run the long tests of compiled and exported graphs, two minutes
	$(BIN)/pytest -m compiler

# -O1: the errors are the same, and the build takes half as long.
sanitize: $(INSTALLED) ## run the ops under sanitizers and valgrind, some 20 minutes
	CXXFLAGS="-O1 -g1 $(ADDRESS_FLAGS)" LDFLAGS="$(ADDRESS_FLAGS)" \
	  $(BIN)/python setup.py build --build-base build/address --build-lib build/address/lib
	$(ADDRESS_OPTIONS) $(BIN)/pytest tests/test_ops.py tests/test_winograd.py tests/test_pooling.py \
	  tests/test_relu.py -k "not compiled and not opcheck"
	$(ADDRESS_OPTIONS) $(BIN)/python tests/stress/fuzz.py --examples 2000
	mkdir -p build/threads
	$(CXX) $(ENGINE_FLAGS) -fsanitize=thread $(ENGINE) -o build/threads/sanitized
	build/threads/sanitized
	command -v valgrind || exit 0; \
	  $(CXX) $(ENGINE_FLAGS) $(ENGINE) -o build/threads/plain && \
	  valgrind --error-exitcode=1 --track-origins=yes build/threads/plain small

stress: $(INSTALLED) ## 100,000 random layers between guard pages, faults, any bytes as arguments: 50 minutes
	$(BIN)/python tests/stress/fuzz.py --guard --minutes 30
	$(BIN)/pytest -m stress
	$(BIN)/pip install 'atheris==3.0.0'
	mkdir -p build/stress
	cd build/stress && $(CURDIR)/$(BIN)/python $(CURDIR)/tests/stress/schema.py -max_total_time=300

reproducible: $(INSTALLED) ## build the wheel twice, in two folders, and compare the bytes
	$(BIN)/python tests/reproducible_wheel.py

# For every Python that we support; torch and what it brings are chosen before these.
lock: $(INSTALLED) ## choose the newest versions of what developers install: constraints.txt
	mkdir -p build
	echo torch==2.13.0 | $(BIN)/uv pip compile --universal --python-version 3.10 --upgrade --quiet \
	  --extra test --extra bench --extra docs --extra examples --extra dev --no-annotate --no-header \
	  --constraint /dev/stdin pyproject.toml | grep -vE '^(torch|triton|cuda-|nvidia-)' > build/lock
	mv build/lock constraints.txt

known-cases: $(INSTALLED) ## run reported faults of stock layers again, by it and by these
	$(BIN)/python tests/known_cases.py --write docs/known_cases.md

# The library of $(INSTALLED), built for its torch, in a wheel for another.
models: $(INSTALLED) ## test models of torchvision and timm, and training with Opacus, under torch 2.14.1
	test -x $(MODELS)/bin/python || $(PYTHON) -m venv $(MODELS)
	$(MODELS)/bin/pip install torch==2.14.1 torchvision==0.29.1
	rm -f $(MODELS)/*.whl
	$(BIN)/pip wheel --no-build-isolation --no-deps --wheel-dir $(MODELS) .
	$(MODELS)/bin/pip install --force-reinstall --no-deps $(MODELS)/*.whl
	$(MODELS)/bin/pip install "$$(ls $(MODELS)/*.whl)[examples,models,privacy,test]"
	$(MODELS)/bin/pytest tests/models tests/test_privacy.py

versions: $(INSTALLED) wheel ## test that wheel under Python 3.10-3.13 and torch 2.10-2.14, some two hours
	$(BIN)/nox

aarch64: $(INSTALLED) ## the engine for AArch64, emulated (needs g++-aarch64-linux-gnu and qemu-user)
	$(AARCH64_CXX) $(AARCH64_FLAGS) $$($(TORCH_INCLUDES)) -DTORCH_TARGET_VERSION=0x020a000000000000 \
	  -fsyntax-only csrc/*.cpp csrc/cpu/layers.cpp csrc/cpu/instruction_set.cpp
	mkdir -p build
	$(AARCH64_CXX) $(AARCH64_FLAGS) -Icsrc -Itests/engine -static tests/engine/engine.cpp \
	  csrc/cpu/contractions.cpp -o build/engine-aarch64
	qemu-aarch64 build/engine-aarch64

cuda-emulator: $(INSTALLED) ## run all CUDA kernels on the CPU under sanitizers, some 10 minutes
	$(BIN)/pytest tests/cuda_emulator/sweep.py

lint: $(INSTALLED) ## check style and types, change nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(INSTALLED) ## lay out all Python and C++ files
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

wheel: $(INSTALLED) ## build a wheel in dist/ for every Python >= 3.10 and torch >= 2.10
	$(BIN)/pip wheel --no-build-isolation --no-deps --wheel-dir dist .

cuda-kernels: $(INSTALLED) ## compile the CUDA kernels for one architecture and check their machine code
	$(BIN)/python tests/cuda_check/cuda_check.py --architectures 9.0

cuda-check: $(INSTALLED) $(CUDA_PYTHON) ## the same for all, and import them under torch 2.14.1; no GPU needed
	$(BIN)/python tests/cuda_check/cuda_check.py --python $(CUDA_PYTHON)

cuda-library: $(INSTALLED)
	@$(NEED_GPU)
	TORCH_FULLCONV_CUDA=only $(BIN)/python setup.py build_ext --inplace

cuda-test: cuda-library ## on a machine with a GPU: its instructions, then the tests with tensors on it
	$(NVCC) -std=c++20 -arch=native -Icsrc/cuda tests/cuda_emulator/instructions.cu -o build/instructions
	build/instructions
	CUBLAS_WORKSPACE_CONFIG=:4096:8 $(BIN)/pytest --device cuda $(GPU_TESTS)

cuda-bench: cuda-library ## on a machine with a GPU: time layers, of larger batches, and models against cuDNN
	$(BIN)/python -m torch_fullconv bench --device cuda --batches 16 --dtype float32 float16 bfloat16 \
	  --json $(RESULTS)/cuda.json --markdown $(RESULTS)/cuda.md --plots $(RESULTS)

clean: ## remove all that was built, the virtual environment included
	rm -rf .venv .venv-cuda $(MODELS) build dist runs *.egg-info torch_fullconv/*.so
	rm -rf .hypothesis .mypy_cache .nox .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv-cuda/bin/python:
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/pip install torch==2.14.1 setuptools numpy || (rm -rf .venv-cuda; false)

# torch comes first, so that nothing else chooses its version.
$(INSTALLED): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch; exit(torch.__version__ < (2, 10))' 2>/dev/null \
	  || $(BIN)/pip install torch==2.13.0
	$(BIN)/pip install -c constraints.txt setuptools wheel ninja numpy
	$(BIN)/pip install -c constraints.txt --no-build-isolation --editable '.[test,bench,docs,examples,dev]'
	touch $@
