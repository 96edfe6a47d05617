"""Train on two CPU devices with TensorFlow, batch normalization over the global batch.

    KERAS_BACKEND=tensorflow python examples/distributed/tensorflow_mirrored.py

On one machine with several GPUs, remove the first call below: `tf.distribute.MirroredStrategy()`
uses all of them. On several machines, use `tf.distribute.MultiWorkerMirroredStrategy()` instead,
and start the same script on each of them, with its own index:

    TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]},
                "task": {"type": "worker", "index": 0}}' \
        KERAS_BACKEND=tensorflow python examples/distributed/tensorflow_mirrored.py
"""

import argparse

import keras
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_norm


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    epochs = parser.parse_args().epochs
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        digits.data.astype("float32"), digits.target, test_size=0.25, random_state=0
    )
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((64,)),
                layers.Dense(64, use_bias=False),
                keras_norm.BatchNormalization(synchronized=True),
                layers.ReLU(),
                layers.Dense(10),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    # Batches are global; each replica gets half of each. No replica may be left without samples.
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(32, True)
    callback = keras_norm.callbacks.PopulationStatistics(x, verbose=0)
    model.fit(train, epochs=epochs, callbacks=[callback], verbose=2)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"{strategy.num_replicas_in_sync} replicas, test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
