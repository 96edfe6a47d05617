"""The project's commands: `nox` runs the default checks, `nox -s everything` nearly all of them.

The default checks run one case of each test, without slow tests, in about 20 minutes on two cores.
"""

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.reuse_venv = "yes"
# uv installs an environment in seconds instead of minutes. It does not read pip's settings, so pass
# on where to find wheels that are on the disk.
nox.options.default_venv_backend = "uv|virtualenv"
if "PIP_FIND_LINKS" in os.environ:
    os.environ.setdefault("UV_FIND_LINKS", ",".join(os.environ["PIP_FIND_LINKS"].split()))
nox.options.sessions = ["lint", "types", "quick", "triton", "docs"]
# A session whose interpreter is missing is skipped with a message. Where an interpreter must be
# there, as in the jobs on GitHub, `nox --error-on-missing-interpreters` fails.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"

# The oldest Keras that pyproject.toml declares, with the oldest backends, and the newest tested.
KERAS = {"3.13.0": "constraints-oldest.txt", "3.15.1": "constraints.txt"}
OLDEST, NEWEST = KERAS
# The interpreters that the newest versions are tested on.
PYTHONS = ["3.11", "3.12", "3.13"]
# The packages of each backend's environment: the backend, and its converters for exported models.
TENSORFLOW = "tensorflow" if sys.platform == "darwin" else "tensorflow-cpu"
BACKENDS = {
    "tensorflow": [TENSORFLOW, "tf2onnx", "ai-edge-litert"],
    "jax": ["jax", "flax", "jax2onnx"],
    "torch": ["torch", "onnxscript"],
}
TEST_TOOLS = ["pytest", "pytest-xdist", "scikit-learn", "matplotlib", "scipy", "h5py", "hatchling"]
EXPORT_TOOLS = ["onnx", "onnxruntime", "openvino"]
# Two processes of pytest; one that has nothing left to do takes tests from the other.
PARALLEL = ["-n", "2", "--dist", "worksteal"]


def install(session, *packages, keras=NEWEST):
    """Installs the package and others at the tested versions."""
    remove_other_environments(session)
    session.install("-c", KERAS[keras], f"keras=={keras}", "-e", ".", *packages)


def remove_other_environments(session):
    """Removes earlier environments on CI: all of them need 17 GB, the largest one 2 GB."""
    if "CI" not in os.environ:
        return
    own = Path(session.virtualenv.location).absolute()
    for found in own.parent.glob("*/pyvenv.cfg"):
        if found.parent != own:
            shutil.rmtree(found.parent)


def environment(session, backend):
    """Returns the environment variables of a process on one backend."""
    # Keep compiled programs between runs: on the CPU, JAX spends most of its time compiling.
    cache = Path(session.cache_dir).absolute() / "jax"
    return {
        "KERAS_BACKEND": backend,
        "KERAS_TORCH_DEVICE": "cpu",  # Keras takes the accelerator of a Mac, which has no float64
        "PYTHONUTF8": "1",  # Windows reads text in another encoding
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


# What the default sessions run: one case of each test, without slow tests. On the oldest Keras,
# they leave out tests of what its version changes little, and of exported files.
QUICK = ["--cases", "1", "-m", "not slow"]
IGNORED = ["diagnosis", "kernels", "matlab", "mutants", "ops", "layers/test_synchronized.py"]
OTHERS = ["docs", "export", "inference_backends", "notebooks", "population", "replicas", "wolfram"]
IGNORED += [f"test_{name}.py" for name in OTHERS]


@nox.session
@nox.parametrize("keras", list(KERAS))
@nox.parametrize("backend", list(BACKENDS))
def quick(session, backend, keras):
    """Runs some cases of each test on one backend; with the newest Keras, an example as well."""
    install(session, *BACKENDS[backend], *TEST_TOOLS, *EXPORT_TOOLS, keras=keras)
    ignored = [f"--ignore=tests/{name}" for name in IGNORED if keras == OLDEST]
    arguments = [*PARALLEL, *QUICK, *ignored, *session.posargs]
    session.run("pytest", *arguments, env=environment(session, backend))
    if keras == NEWEST:
        run_examples(session, backend, EXAMPLES[backend][:1])


@nox.session(default=False)
@nox.parametrize("keras", list(KERAS))
@nox.parametrize("backend", list(BACKENDS))
def tests(session, backend, keras):
    """Runs the tests on one backend and one version of Keras."""
    install(session, *BACKENDS[backend], *TEST_TOOLS, *EXPORT_TOOLS, keras=keras)
    arguments = session.posargs or PARALLEL
    session.run("pytest", *arguments, env=environment(session, backend))


@nox.session(default=False)
@nox.parametrize("backend", list(BACKENDS))
def nightly(session, backend):
    """Runs the tests on the nightly build of Keras."""
    install(session, *BACKENDS[backend], *TEST_TOOLS, *EXPORT_TOOLS)
    # Both packages contain `keras`, so remove the one before installing the other.
    uninstall = ["uv", "pip", "uninstall"]
    if session.venv_backend != "uv":
        uninstall = ["python", "-m", "pip", "uninstall", "-y"]
    session.run(*uninstall, "-q", "keras", "keras-nightly")
    session.install("keras-nightly")
    session.run("pytest", *(session.posargs or PARALLEL), env=environment(session, backend))


# The version for the tested PyTorch, whose builds for the CPU do not include it.
TRITON = "triton==3.7.1"
INTERPRETED = {"KERAS_NORM_KERNELS": "triton", "TRITON_INTERPRET": "1"}


@nox.session
def triton(session):
    """Runs the GPU kernels in an interpreter, counts their traffic and compiles them."""
    install(session, "torch", "matplotlib", *TEST_TOOLS[:2])
    session.install("--no-deps", TRITON)
    variables = environment(session, "torch") | INTERPRETED
    tests = ["tests/kernels/test_triton.py", "tests/kernels/test_problems.py"]
    # `test_triton` has one example of compilation into a larger program.
    chosen = ["-k", "not compiled", *PARALLEL, "-W", "ignore::RuntimeWarning"]
    session.run("pytest", *tests, *chosen, *(session.posargs or ["--cases", "4"]), env=variables)
    session.run(
        *("python", "-m", "benchmarks.accelerator", "--output", "benchmarks/results"),
        env=environment(session, "torch"),
    )


@nox.session(default=False)
def xla(session):
    """Compiles the programs of JAX and TensorFlow for a GPU and counts their traffic."""
    install(session, *BACKENDS["jax"], TENSORFLOW)
    # The compiler for GPUs, in the version of the tested JAX.
    code = "import jax; print(jax.__version__)"
    version = session.run("python", "-c", code, silent=True).strip()
    session.install("--no-deps", f"jax-cuda12-pjrt=={version}")
    for backend in ("jax", "tensorflow"):
        session.run(
            *("python", "-m", "benchmarks.xla", "--output", "benchmarks/results"),
            env=environment(session, backend),
        )


@nox.session(default=False)
@nox.parametrize("backend", [*BACKENDS, "triton"])
def mutants(session, backend):
    """Makes small mistakes in the package; fails if the tests notice fewer than 95% of them."""
    framework = "torch" if backend == "triton" else backend
    install(session, *BACKENDS[framework], *TEST_TOOLS, *EXPORT_TOOLS)
    variables = environment(session, framework)
    if backend == "triton":
        session.install("--no-deps", TRITON)
        variables |= INTERPRETED | {"PYTEST_ADDOPTS": "-k 'not compiled'"}
    session.run("python", "tests/mutants/run.py", *(session.posargs or ["-n", "2"]), env=variables)


@nox.session(python=PYTHONS, default=False)
@nox.parametrize("backend", list(BACKENDS))
def pythons(session, backend):
    """Runs the tests with the newest versions on each interpreter; skips missing interpreters."""
    install(session, *BACKENDS[backend], *TEST_TOOLS, *EXPORT_TOOLS)
    arguments = session.posargs or PARALLEL
    session.run("pytest", *arguments, env=environment(session, backend))


@nox.session(default=False)
@nox.parametrize("version", ["2.11.0", "2.15.0"])
def pytorch(session, version):
    """Runs the tests on the oldest and the newest PyTorch.

    On Linux this installs gigabytes of CUDA, unless the environment variable UV_TORCH_BACKEND=cpu
    makes uv take PyTorch's builds for the CPU.
    """
    install(session, *BACKENDS["torch"], *TEST_TOOLS, *EXPORT_TOOLS)
    session.install(f"torch=={version}")
    session.run("pytest", *(session.posargs or PARALLEL), env=environment(session, "torch"))


@nox.session(venv_backend="none", default=False)
def everything(session):
    """Runs all tests, on all versions, and the other sessions.

    Left out: `quick`, whose tests are among these; `nightly`, as an unreleased Keras may fail;
    `pytorch`, which installs gigabytes; `mutants`, which takes hours; `bench` and `gpu`, which
    measure.
    """
    # `notify` takes a single session; of a session with parameters, it would run only the first.
    for name in ("lint", "types", "docs", "build"):
        session.notify(name)
    session.notify("triton", posargs=PARALLEL)  # instead of few cases
    running = "{}.{}".format(*sys.version_info)  # `tests` runs on it
    for backend in BACKENDS:
        session.notify(f"examples(backend={backend!r})")
        for keras in KERAS:
            session.notify(f"tests(backend={backend!r}, keras={keras!r})")
        for python in PYTHONS:
            if python != running:
                session.notify(f"pythons-{python}(backend={backend!r})")


@nox.session
def lint(session):
    """Checks format and style."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session):
    """Checks the types."""
    install(session, "mypy")
    session.run("mypy")
    session.run("mypy", "--warn-unused-ignores", "tests/layers/test_types.py")


@nox.session
def docs(session):
    """Builds the documentation; a warning is an error."""
    install(session, "jax", "sphinx", "furo", "myst-parser", "sphinx-copybutton")
    session.run(
        *("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "site"),
        env=environment(session, "jax"),
    )


# The examples at a small size, by the backend that they run on. `quick` runs the first of each.
EXAMPLES = {
    "jax": [
        "quickstart.py --epochs 1 --output {output}",
        "small_batches.py --small --output {output}",
        "population_passes.py --epochs 1",
        "finetune_multipliers.py --small --out {output}/finetune_multipliers.png",
        "gradual_unfreezing.py --small --out {output}/gradual_unfreezing.png",
        "padded_series.py --small --out {output}/padded_series.png",
        "diagnosis.py --small --out {output}/diagnosis.png",
        "distributed/jax_data_parallel.py --epochs 1",
    ],
    "torch": ["distributed/torch_ddp.py --epochs 1"],
    "tensorflow": ["distributed/tensorflow_mirrored.py --epochs 1"],
}


@nox.session(default=False)
@nox.parametrize("backend", list(EXAMPLES))
def examples(session, backend):
    """Runs the examples at a small size."""
    install(session, *BACKENDS[backend], "scikit-learn", "matplotlib")
    run_examples(session, backend, EXAMPLES[backend])


def run_examples(session, backend, examples):
    """Runs examples of one backend in the session's environment."""
    output = session.create_tmp()
    for example in examples:
        script, *arguments = example.format(output=output).split()
        launcher = ["torchrun", "--nproc-per-node", "2"] if "torch_ddp" in script else ["python"]
        session.run(*launcher, f"examples/{script}", *arguments, env=environment(session, backend))


@nox.session(default=False)
def build(session):
    """Builds the distributions, and tests the wheel in a fresh environment for each backend."""
    session.install("build", "twine", "uv")
    dist = Path("dist").absolute()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    files = sorted(map(str, dist.iterdir()))
    session.run("twine", "check", "--strict", *files)
    wheel = next(file for file in files if file.endswith(".whl"))
    smoke_test = Path("tests/smoke.py").absolute()
    for backend in BACKENDS:
        place = Path(session.create_tmp()).absolute() / backend
        shutil.rmtree(place, ignore_errors=True)
        session.run("uv", "venv", "-q", "--python", sys.executable, str(place / "venv"))
        python = str(place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python")
        constraints = str(Path("constraints.txt").absolute())
        session.run(
            *("uv", "pip", "install", "-q", "--python", python, "-c", constraints),
            *(f"keras=={NEWEST}", wheel, BACKENDS[backend][0]),
        )
        (place / "empty").mkdir()
        with session.chdir(place / "empty"):
            session.run(python, "-P", smoke_test, env={"KERAS_BACKEND": backend}, external=True)


@nox.session(default=False)
@nox.parametrize("backend", list(BACKENDS))
def bench(session, backend):
    """Measures the speed against Keras's layers, native kernels and a copy of memory."""
    install(session, *BACKENDS[backend], "matplotlib")
    arguments = session.posargs or ["--output", "benchmarks/results"]
    session.run("python", "-m", "benchmarks", *arguments, env=environment(session, backend))


@nox.session(venv_backend="none")
def gpu(session):
    """Tests and measures on the accelerators that the installed backends see; fails without one."""
    # Messages about missing backends go to the terminal.
    seen = session.run("python", "tests/accelerators.py", silent=True, stderr=None) or ""
    backends = seen.split()
    if not backends:
        session.error("no installed backend sees an accelerator: see docs/accelerators.md")
    for backend in backends:
        session.log(f"{backend} sees an accelerator")
        variables = {"KERAS_BACKEND": backend}
        session.run("python", "-m", "pytest", *session.posargs, env=variables)
        session.run(
            *("python", "-m", "benchmarks.card", "--output", "benchmarks/results"), env=variables
        )
