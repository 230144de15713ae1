# Commands that do everything themselves, in the virtual environment .venv. For Windows, README.md has the lines of the
# demo and tests/README.md those of the tests in plain "python -m pip".

PYTHON ?= python3
COMFYUI := $(or $(COMFYUI_PATH),$(HOME)/comfy/ComfyUI)
IN_VENV := .venv/bin/python -m
# Python compiles what it imports; to compile all of torch takes longer than to unpack it.
INSTALL := $(IN_VENV) pip install --quiet --no-compile
# Images of containers often forbid Python to keep what it compiled: each of the processes that tests start would compile
# all of PyTorch again, which doubles its start.
unexport PYTHONDONTWRITEBYTECODE
# Two files at a time, each with a thread of its own; in the order of their names, for those of the host, which are long,
# shall not come last.
PYTEST := OMP_NUM_THREADS=1 $(IN_VENV) pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: card-bundle demo fast test

demo: .venv/ready-for-demo
	$(IN_VENV) ltx2_core generate --prompt "a red ball bounces twice on the left" --output demo.mp4

# Where there is a ComfyUI, the tests of the pack start it; torch stays the one that the other tests run with. Types are
# checked meanwhile, for which only what is there already is read.
test: .venv/ready-for-tests
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy & types=$$!; \
	if [ -f "$(COMFYUI)/requirements.txt" ]; then \
		$(INSTALL) --requirement "$(COMFYUI)/requirements.txt" --constraint .venv/torch.txt || exit; \
	fi; \
	wait $$types
	$(PYTEST)

# While one writes code: what needs no other implementation, no server, no card and no whole clip.
fast: .venv/ready-for-tests
	$(PYTEST) -m "not oracle and not slow and not comfy and not browser and not cuda" tests/core tests/shape

# Wheels for a machine with a card that has torch and no way out: copy the folder there with the repository, then
# "python -m pip install --no-index --find-links card-bundle --no-deps card-bundle/*.whl".
CARD_PYTHON ?= 3.12
FOR_CARD := --quiet --dest card-bundle --only-binary :all: --python-version $(CARD_PYTHON) \
	--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
card-bundle:
	$(PYTHON) -m pip download $(FOR_CARD) safetensors tokenizers transformers einops numpy av pillow sentencepiece tqdm "pytest>=8"
	$(PYTHON) -m pip download $(FOR_CARD) --no-deps ltx-core==1.0.0 diffusers==0.42.1 comfy-kitchen==0.2.40
	ls card-bundle

.venv/ready-for-demo: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip
	$(INSTALL) --only-deps ".[standalone]"
	touch $@

# What we compare with comes without its own wishes for other packages, but those that diffusers and peft cannot do
# without are named. Each call of pip takes a second before it does anything; aiohttp is read with the types of nodes.
.venv/ready-for-tests: pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip
	$(INSTALL) --only-deps ".[standalone,test]"
	$(INSTALL) --no-deps ltx-core==1.0.0 diffusers==0.42.1 peft==0.21.2 accelerate==1.15.0 \
		optimum-quanto==0.2.7 bitsandbytes==0.50.2 comfy-kitchen==0.2.40 gguf==0.19.0 torchao==0.18.0 OpenEXR==3.5.3
	$(INSTALL) --only-binary ray "ray==2.60.0; python_version < '3.15'" c2pa-python==0.38.1 \
		aiohttp requests importlib_metadata psutil
	$(IN_VENV) pip list --format=freeze | grep -E '^torch(audio|vision)?==' > .venv/torch.txt
	touch $@
