"""One backend per process: KERAS_BACKEND chooses it, and a missing backend fails the run."""

import importlib.util
import os
import random

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The tests run in parallel processes. With more threads than cores, OpenMP's wait for each other:
# PyTorch took six times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# JAX and TensorFlow show two CPU devices, for the tests of distributed training; TensorFlow is
# told below.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


VERSION = f"keras {keras.__version__}, backend {keras.backend.backend()}"


def pytest_configure(config):
    if keras.backend.backend() == "torch":
        # What an export traces has the sizes of its example, and PyTorch says so.
        config.addinivalue_line("filterwarnings", "ignore::torch.jit.TracerWarning")


def pytest_addoption(parser):
    parser.addoption(
        "--cases",
        type=int,
        metavar="N",
        help="of the cases of each test function, run N: always the same ones of one version of "
        "Keras and backend, others of another",
    )


def pytest_collection_modifyitems(config, items):
    most = config.getoption("cases")
    if most is None:
        return
    functions = {}
    for item in items:
        functions.setdefault(item.nodeid.split("[")[0], []).append(item)
    chosen = set()
    for name, cases in functions.items():
        chosen.update(random.Random(f"{VERSION} {name}").sample(cases, min(most, len(cases))))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def pytest_report_header():
    return VERSION


def pytest_terminal_summary(terminalreporter):
    """Lists the problems that no executor takes, so that silence hides none."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    declined = {value for report in reports for key, value in report.user_properties
                if key == "declined"}  # fmt: skip
    if declined:
        terminalreporter.section(f"{len(declined)} problems that no executor takes")
        for problem in sorted(declined):
            terminalreporter.line(problem)


@pytest.fixture(autouse=True)
def _fixed_seeds():
    """Every test starts from the same random state and an empty Keras name space."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


if keras.backend.backend() == "jax":
    import jax

    @pytest.fixture(autouse=True)
    def _quick_compilation(request):
        """Leaves out LLVM's optimizations, most of the time of a compilation, in tests of models.

        Tests of accuracy and of executors run the machine code that users run.
        """
        of_executors = {"kernels", "ops"} & {parent.name for parent in request.path.parents}
        is_quick = jax.default_backend() == "cpu" and not of_executors
        jax.config.update("jax_disable_most_optimizations", is_quick)


# Some versions of Keras, as 3.15, ship their tests inside the package: there they are run.
collect_ignore = (
    []
    if importlib.util.find_spec("keras.src.layers.normalization.batch_normalization_test")
    else ["layers/test_keras_own_tests.py"]
)
