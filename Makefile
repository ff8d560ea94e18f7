# All set up .venv by themselves; PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
ARGS ?=
bin := .venv/bin
seams := step rewards tasks rollout executor values forgery

train: .venv/ready
	$(bin)/python train.py $(or $(ARGS),--preset nano)

# Hash seeds are fixed so that all processes collect the same tests: names of some hold sets.
test: .venv/ready
	PYTHONHASHSEED=0 $(bin)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS) tests

# The seams, for use after every edit.
quick: .venv/ready
	PYTHONHASHSEED=0 $(bin)/python -m pytest -q -n 2 --dist loadfile -m quick $(ARGS) $(addprefix tests/test_,$(seams:=.py))

# What needs a CUDA card, which `make test` hides.
cuda: .venv/ready
	$(bin)/python -m pytest -q -m cuda $(ARGS) tests

.venv/ready: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...' or 0)"
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install -q --upgrade pip
	$(bin)/python -m pip install -q torch==2.13.0
	$(bin)/python -m pip install -q -r requirements.txt pytest pytest-xdist triton
	touch $@

clean:
	rm -rf .venv

.PHONY: train test quick cuda clean
