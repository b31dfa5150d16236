# make demo: train the methods side by side with PyTorch on real images, some minutes on two cores.   make test: everything.
# make quick: lint, types and tests of what changed, with one framework (FRAMEWORK=torch, tf, jax, or core for none).
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
# modules are compiled when they are first imported: few of torch's and TensorFlow's are
INSTALL := install --quiet --no-compile --constraint constraints.txt
PACKAGES := sbp_core sbp_torch sbp_tf sbp_jax sbp_keras sbp_conformance sbp_lab
# the tensors of the tests are tiny: one thread each, and two processes side by side
PYTEST := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 PYTHONPATH=$(CURDIR)/$(TEST)/peers \
  $(TEST)/bin/pytest -n 2 --dist worksteal --durations 20 --durations-min 5
export TF_CPP_MIN_LOG_LEVEL := 3
unexport PYTHONDONTWRITEBYTECODE
# PyTorch 2.13 frees memory twice in the backward of narrow strided 1x1 convolutions, channels last, where oneDNN takes AVX2
export ONEDNN_MAX_CPU_ISA := AVX
# under that limit TensorFlow 2.21's own oneDNN crashes in bfloat16 on processors that have instructions for it
export TF_ENABLE_ONEDNN_OPTS := 0
# Compilers take far longer than what they compile runs here. XLA's: in a third of the time without LLVM's optimisations and
# the newer emitters, in one piece, and what one test has compiled the others find. PyTorch's: no pool of processes.
XLA := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
SUITE := test suite core adapters conformance quick
$(SUITE): export XLA_FLAGS := $(XLA)
$(SUITE): export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.xla_cache
$(SUITE): export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
$(SUITE): export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1
$(SUITE): export TORCHINDUCTOR_COMPILE_THREADS := 1

.PHONY: demo test checks suite quick lint types core adapters conformance triton wheel clean

demo: $(DEMO)/installed
	$(DEMO)/bin/sbp demo

test: checks suite

checks: $(TEST)/installed
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target types lint

# one run of pytest: each start imports every framework twice, and each end leaves a core idle
suite: wheel triton
	$(PYTEST) tests --ignore tests/others --ignore-glob '*/matrix_*.py' --doctest-modules --pyargs $(PACKAGES)

FRAMEWORK ?= torch
QUICK := .venv-quick-$(FRAMEWORK)
comma := ,
EXTRAS_torch := torch,lightning,quick
EXTRAS_core := quick
EXTRAS := $(or $(EXTRAS_$(FRAMEWORK)),$(FRAMEWORK)$(comma)quick)

quick: $(QUICK)/installed
	$(QUICK)/bin/python tools/quick.py

lint: $(TEST)/installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/lint-imports

types: $(TEST)/installed
	$(TEST)/bin/mypy

# every test runs against the built wheel: an editable install would also find what the wheel lacks
wheel: $(TEST)/wheel

SOURCES := $(wildcard $(shell git ls-files '*.py' '*.css' pyproject.toml))
$(TEST)/wheel: $(TEST)/installed $(SOURCES)
	rm -rf dist
	$(TEST)/bin/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	$(TEST)/bin/pip install --quiet --force-reinstall --no-deps dist/*.whl
	touch $@

# parts of the suite
core: wheel
	$(PYTEST) tests/core --doctest-modules --pyargs $(PACKAGES)

adapters: wheel triton
	$(PYTEST) tests --ignore tests/core --ignore tests/conformance --ignore tests/others

conformance: wheel
	$(PYTEST) tests/conformance

triton: wheel
	PYTHONPATH=$(TEST)/triton $(TEST)/bin/pytest tests/torch/test_torch_triton.py

$(DEMO)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip $(INSTALL) ".[torch,lab]"
	touch $@

# Apart, and beside the rest: Triton and TensorFlow abort where one process loads both; the peers' requirements conflict with
# the others' (the matrix and SpikingJelly's example import them); beside a torch for the CPU torchvision's compiled operators
# are missing, and lightning imports it where it finds it.
APART := $(TEST)/bin/pip install --quiet --no-compile --no-deps --target $(TEST)
$(TEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TEST)
	{ $(APART)/triton triton==3.9.0 && $(APART)/vision torchvision==0.28.0 && \
	  $(APART)/peers spikingjelly==2.0.0 snntorch==1.0.0 loguru==0.7.3; } & apart=$$!; \
	$(TEST)/bin/pip $(INSTALL) ".[dev]" && wait $$apart
	touch $@

$(QUICK)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(QUICK)
	$(QUICK)/bin/pip $(INSTALL) ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) $(PEERS) $(OTHERS) .venv-quick-* build dist .xla_cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# the peers' requirements conflict with the tests': an environment of their own, for comparing with them and timing them
PEERS := .venv-peers
BENCH := PYTHONPATH=.:backends:conformance $(PEERS)/bin/python benchmarks
# glibc gives freed memory of some sizes back and takes it anew, page by page: whose, in which order, is luck
REUSE := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
.PHONY: peers matrix matrix-peers bench bench-xla bench-loader

peers: $(PEERS)/installed
	PYTHONPATH=. $(PEERS)/bin/python conformance/peers --out docs/peers.md

# what a Shortcut is attached to x mode, a table for each framework
matrix: wheel
	$(PYTEST) tests -m matrix --ignore tests/others

# networks that others published, in an environment of their own; PyTorch's and JAX's (with Keras) in a process each
OTHERS := .venv-others
OTHERS_PYTEST := HF_HUB_OFFLINE=1 PYTHONPATH=.:backends:conformance $(OTHERS)/bin/pytest -q -W ignore
.PHONY: others
others: $(OTHERS)/installed
	$(OTHERS_PYTEST) tests/others/test_others_torch.py
	$(OTHERS_PYTEST) tests/others/test_others_jax.py tests/others/test_others_keras.py

$(OTHERS)/installed: tests/others/requirements.txt
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/pip install --quiet --requirement $<
	touch $@

# every PyTorch network also in two processes
matrix-peers: wheel
	SBP_TEST_EVERY_NETWORK=1 $(PYTEST) tests/torch/test_torch_matrix.py

# CIFAR-10's images where SBP_DATA has them, else random ones
bench-loader: wheel
	$(TEST)/bin/python benchmarks/loader.py

bench: $(PEERS)/installed
	$(REUSE) $(BENCH)/neuron_cpu.py --rounds 31
	$(REUSE) $(BENCH)/neuron_cpu.py --rounds 21 --threads 1 --batch 16 --out benchmarks/results/neuron_cpu_one_thread.json
	$(BENCH)/neuron_cpu.py --rounds 21 --out benchmarks/results/neuron_cpu_default_allocator.json
	$(REUSE) $(BENCH)/neuron_family.py
	$(REUSE) $(BENCH)/resnet_cpu.py --rounds 11 --compiled
	$(BENCH)/resnet_cpu.py --rounds 11 --out benchmarks/results/resnet_cpu_default_allocator.json
	$(REUSE) $(BENCH)/shortcut_torch.py --rounds 21
	$(REUSE) $(BENCH)/scaling_cpu.py --rounds 11 --threads 1
	$(BENCH)/plots.py

# one core by processor time, then every core by the clock. XLA's own results above 32 MB are fresh pages whatever the
# allocator: there the copies are left to be so too
ONE := taskset -c 0 env
bench-xla: $(PEERS)/installed $(TEST)/installed
	$(REUSE) $(ONE) $(BENCH)/neuron_jax.py --batch 16
	$(ONE) $(BENCH)/neuron_jax.py --batch 64 --out benchmarks/results/neuron_jax_fresh_pages.json
	$(REUSE) $(BENCH)/neuron_jax.py --batch 16 --wall --out benchmarks/results/neuron_jax_wall.json
	$(REUSE) $(ONE) PYTHONPATH=.:backends $(TEST)/bin/python benchmarks/neuron_tf.py
	$(REUSE) PYTHONPATH=.:backends $(TEST)/bin/python benchmarks/neuron_tf.py --wall --out benchmarks/results/neuron_tf_wall.json

$(PEERS)/installed: conformance/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement $<
	touch $@
