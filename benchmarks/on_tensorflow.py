"""Steps on TensorFlow, in a tf.function, compiled by XLA or not."""

import functools

import tensorflow as tf

MODES = ("xla", "graph")
COMPILES_LAYERS = False
VERSION = f"tensorflow {tf.__version__}"


def use_threads(number):
    """Returns the number of threads as text; the benchmark cannot choose it."""
    return ""


def tensor(values, dtype, mode):
    return tf.cast(tf.constant(values), dtype)


def finish(result):
    """Waits for a result: eager TensorFlow on the CPU has already."""
    if tf.config.list_physical_devices("GPU"):
        tf.test.experimental.sync_devices()


def device_name():
    """Returns the name of the device that is measured."""
    device = (tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices())[0]
    return tf.config.experimental.get_device_details(device).get("device_name", device.name)


def layer_step(layer, x, gradient, step, mode, mask=None):
    """Returns a function that runs a step of a layer."""
    parameters = [variable.value for variable in layer.trainable_variables]
    options = {"training": step == "training"} | ({} if mask is None else {"mask": mask})
    forward = functools.partial(layer, **options)
    return _step(forward, parameters, x, gradient, step != "inference", mode)


def program(layer, shape, dtype, step, masked):
    """Returns the program of a step that TensorFlow passes to XLA, in HLO's text."""
    x = tf.zeros(shape, dtype)
    run = layer_step(layer, x, x, step, "xla", tf.ones(shape[:2], "bool") if masked else None)
    return run.func.experimental_get_compiler_ir(*run.args)(stage="hlo")


def native_step(name, options, x, gradient, training, mode):
    """Returns a function that runs a step of the backend's own operation, or None."""
    if name != "batch" or options["axis"] != -1:
        return None
    channels = x.shape[-1]
    gamma, beta, mean, variance = (
        tf.Variable(tf.fill([channels], v), trainable=t)
        for v, t in ((1.0, True), (0.0, True), (0.0, False), (1.0, False))
    )

    def forward(x):
        image = tf.reshape(x, [x.shape[0], -1, 1, channels])
        y, m, v = tf.compat.v1.nn.fused_batch_norm(
            image, gamma, beta, mean, variance, 1e-5, is_training=training
        )
        if training:
            mean.assign(mean * 0.9 + m * 0.1)
            variance.assign(variance * 0.9 + v * 0.1)
        return tf.reshape(y, x.shape)

    return _step(forward, [gamma, beta], x, gradient, training, mode)


def copy(x, mode):
    """Returns a function that copies the input."""
    negative = tf.function(tf.negative, jit_compile=mode == "xla")
    return lambda: negative(x)


def _step(forward, parameters, x, gradient, with_gradients, mode):
    @tf.function(jit_compile=mode == "xla")
    def train(x, gradient):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x)
        return y, tape.gradient(y, [x, *parameters], gradient)

    infer = tf.function(lambda x: forward(x), jit_compile=mode == "xla")
    if with_gradients:
        return functools.partial(train, x, gradient)
    return functools.partial(infer, x)


def memory(make, policy, x, mask):
    """Returns nothing: TensorFlow does not report what it keeps."""
    return {}
