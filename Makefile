# `make` says what there is. Everything lives in this folder: .venv/ (packages),
# data/, models/, plots/.

export PIPENV_VENV_IN_PROJECT := 1
export PIPENV_IGNORE_VIRTUALENVS := 1
export PIPENV_VERBOSITY := -1
# TensorFlow's start-up banners would bury the progress bars.
export TF_CPP_MIN_LOG_LEVEL := 2

# Pipenv from the PATH, else a private copy: system pythons refuse `pip install`.
# `command` is the shell's own: the redirection has GNU make before 4.3 start a shell for it.
PYTHON ?= $(or $(shell command -v python3.11 2>/dev/null),$(shell command -v python3 2>/dev/null),\
    $(error no Python 3.11 on the PATH; README.md says how to install it))
PIPENV_ON_PATH := $(shell command -v pipenv 2>/dev/null)
PIPENV := $(or $(PIPENV_ON_PATH),.pipenv/bin/pipenv)
RUN := $(PIPENV) run
SETUP := .venv/.synced

.PHONY: help setup gpu jax jax-gpu onnx cluster app test-app bundle fracatlas demo demo-all reference tables report test test-slow test-cluster test-all lint format lock notebooks benchmark clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

.pipenv/bin/pipenv:
	$(PYTHON) -m venv .pipenv
	.pipenv/bin/python -m pip install --quiet 'pipenv==2026.10.3'

## make setup      install the locked packages into .venv/
setup: $(SETUP)
$(SETUP): Pipfile Pipfile.lock pyproject.toml $(if $(PIPENV_ON_PATH),,.pipenv/bin/pipenv)
	$(PIPENV) sync --dev
	@touch $@

## make app        open a page in the browser that answers for your images: no training needed
PAGE := .venv/.app
$(PAGE): $(SETUP)
	$(PIPENV) sync --categories app
	@touch $@
app: $(PAGE)
	$(RUN) mura app

## make gpu        add what TensorFlow needs on an NVIDIA GPU (Linux)
## make jax        add JAX, for KERAS_BACKEND=jax; make jax-gpu for an NVIDIA GPU (Linux)
## make onnx       add what `mura export --format onnx` needs
## make cluster    add submitit, for `mura grid --slurm`
gpu jax jax-gpu onnx cluster: $(SETUP)
	$(PIPENV) sync --categories $@

## make fracatlas  download FracAtlas (323 MB) into data/; ARCHIVE=file takes a zip you have,
##                 SHA256=hash refuses an archive with another hash
fracatlas: $(SETUP)
	$(RUN) python tools/fracatlas.py \
	    $(if $(ARCHIVE),--archive '$(ARCHIVE)') $(if $(SHA256),--sha256 '$(SHA256)')

## make demo       the whole path on embedded data: draw, look, train the custom CNN, compare, predict
## make demo-all   the same with VGG, ResNet and DenseNet
demo demo-all: $(SETUP)
	$(RUN) mura phantom
	$(RUN) python tools/notebooks.py --demo \
	    EDA CNN $(if $(filter demo-all,$@),VGG ResNet DenseNet) Evaluation Prediction
	$(RUN) mura evaluate
	$(RUN) mura predict cnn data/phantom/$$(head -n 1 data/phantom/MURA-v1.1/valid_image_paths.csv)
	@echo "Look at plots/, models/ (each run has a model card) and notebooks/executed/."

## make notebooks  run every notebook anew, in place, for committing; NAMES="CNN VGG" only these,
##                 WEIGHTS=../data/pretrained: where the large networks find Keras's weight files
notebooks: $(SETUP)
	$(RUN) mura phantom
	$(RUN) python tools/notebooks.py $(NAMES) $(if $(WEIGHTS),--weights '$(WEIGHTS)')

## make bundle     put a run into the package, for `make app`; MODEL=cnn NAME=phantom
bundle: $(SETUP)
	$(RUN) python tools/bundle.py '$(MODEL)' '$(NAME)' $(if $(ROOT),--root '$(ROOT)')

## make reference  train the runs of results/ (hours, resumable); DATA=phantom or fracatlas,
##                 PHOTOGRAPHS=folder of pretrained backbones, ROOT=data folder
reference: $(SETUP)
	$(RUN) python tools/reference.py $(or $(DATA),phantom) $(if $(ROOT),--root '$(ROOT)') \
	    $(if $(PHOTOGRAPHS),--photographs '$(PHOTOGRAPHS)')

## make tables     write README's tables of results anew, from results/
tables: $(SETUP)
	$(RUN) python tools/tables.py

## make report     build/report.html, the evaluation as one page; of MODELS=folder on ROOT=folder
BUILD := build
report: $(SETUP)
	mkdir -p $(BUILD)
	$(RUN) papermill notebooks/Evaluation.ipynb $(BUILD)/report.ipynb --cwd notebooks \
	    $(if $(MODELS),-r models_folder '$(abspath $(MODELS))') $(if $(ROOT),-r root '$(abspath $(ROOT))') \
	    -r plots_folder '$(abspath $(BUILD))/plots'
	$(RUN) python tools/notebooks.py --clean $(BUILD)/report.ipynb
	$(RUN) jupyter nbconvert $(BUILD)/report.ipynb --to html --template classic \
	    --template-file tools/report.html.j2 --embed-images --no-prompt

## make test       lint and the fast tests
test: lint
	$(RUN) pytest -m "not slow and not cluster" -n 2 --cov=mura --cov-report=term:skip-covered

## make test-slow  the long tests: large networks, notebooks, killed trainings
test-slow: $(SETUP)
	$(RUN) pytest -m slow -n 2

## make test-app   the page, in Chromium
test-app: $(PAGE)
	$(RUN) pytest tests/test_app.py

## make test-cluster  grids and trainings in a real Slurm that is started here (Linux, as root)
test-cluster: $(SETUP)
	$(RUN) pytest -m cluster

## make test-all   every test
test-all: test test-slow test-cluster

## make lint       ruff's linter and formatter, and the direction of imports; changes nothing
lint: $(SETUP)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) lint-imports

## make format     let ruff rewrite what it can
format: $(SETUP)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

## make lock       resolve Pipfile.lock anew, naming no package index in it
lock: $(if $(PIPENV_ON_PATH),,.pipenv/bin/pipenv)
	$(PIPENV) lock --dev --categories "packages dev-packages gpu jax jax-gpu app onnx cluster"
	$(PYTHON) -c "import json, pathlib; p = pathlib.Path('Pipfile.lock'); \
	lock = json.loads(p.read_text()); lock['_meta']['sources'] = []; \
	[package.pop('index', None) for group in lock.values() for package in group.values() \
	 if isinstance(package, dict)]; \
	p.write_text(json.dumps(lock, indent=4) + '\n')"
	$(PIPENV) verify

## make benchmark  the side-by-side measurements of benchmarks/
benchmark: $(SETUP)
	$(RUN) python benchmarks/run.py

clean:
	rm -rf .venv .pipenv build notebooks/executed
