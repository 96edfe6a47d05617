"""Fine-tuning that unfreezes a backbone block by block, at a tenth of the learning rate.

    KERAS_BACKEND=torch python examples/gradual_unfreezing.py [--small] [--out picture.png]

A network of three convolutional blocks learns to read noisy scans of handwritten digits. Then it gets
a new head, is fine-tuned on 30 clean scans, and is tested on noisy scans. Training all of the
network on the clean scans loses some of what the backbone has learned about noise. Two ways of
fine-tuning with AdamW are compared: one learning rate and weight decay for all variables, and
gradual unfreezing. In the second, the head trains alone for four epochs. Then a block is unfrozen
every four epochs, the last one first, at a tenth of the rate. Normalization layers have no weight
decay. Schedules as multipliers do this in one compiled step.

Each way has the learning rate of the same small grid at which it is best on average.

RESULT

Reference:
    Kumar et al., "Fine-tuning can distort pretrained features and underperform
    out-of-distribution", 2022, https://arxiv.org/abs/2202.10054
"""

import keras
import numpy as np
from finetune_multipliers import main, make_backbone
from sklearn.datasets import load_digits

import keras_norm
from keras_norm.optimizers import MultiplierOptimizer

WIDTHS = (16, 32, 32)
NOISE = 0.5  # standard deviation; pixels are in [0, 1]
RATES = (0.003, 0.01, 0.03)
DECAY = 0.05
SAMPLES, BATCH = 30, 10
STEPS = SAMPLES // BATCH  # in an epoch
EPOCHS_PER_BLOCK = 4
ONE_RATE, GRADUAL = "one rate for all", "gradual unfreezing"


def data(seed):
    """Returns noisy scans to pretrain on, clean ones to fine-tune on, and noisy ones to test on."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    x, y = (images[order].reshape(-1, 8, 8, 1) / 16).astype("float32"), labels[order]

    def noisy(start, stop, copies=1):
        several = np.tile(x[start:stop], (copies, 1, 1, 1))
        noise = NOISE * rng.standard_normal(several.shape)
        return (several + noise).astype("float32"), np.tile(y[start:stop], copies)

    few = (x[900 : 900 + SAMPLES], y[900 : 900 + SAMPLES])
    return noisy(0, 900, copies=4), few, noisy(1000, len(x))


def unfreeze_gradually(backbone):
    """Gives each block a schedule: 0 until its time comes, then a tenth of the rate."""
    keras_norm.exclude_norms_and_biases(backbone)
    parts = len(backbone.layers) // len(WIDTHS)
    blocks = [backbone.layers[i * parts : (i + 1) * parts] for i in range(len(WIDTHS))]
    for number, block in enumerate(reversed(blocks), start=1):
        frozen = number * EPOCHS_PER_BLOCK * STEPS
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([frozen - 1], [0.0, 0.1])
        for layer in block:
            if layer.weights:
                keras_norm.set_multipliers(layer, lr=schedule)


def fit(backbone, optimizer, train, test, epochs, batch_size):
    """Trains the backbone with a new head; returns the test accuracy after each epoch."""
    model = keras.Sequential([backbone, keras.layers.Dense(10, "softmax", name="head")])
    model.build((None, 8, 8, 1))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    accuracies = []
    for _ in range(epochs):
        model.fit(*train, batch_size=batch_size, verbose=0)
        accuracies.append(model.evaluate(*test, batch_size=1000, verbose=0)[1])
    return accuracies


def fine_tune(weights, gradual, rate, train, test, epochs, seed):
    keras.utils.set_random_seed(seed)  # the same new head and the same order of samples
    backbone = make_backbone(WIDTHS)
    backbone.set_weights(weights)
    if gradual:
        unfreeze_gradually(backbone)
    optimizer = MultiplierOptimizer(keras.optimizers.AdamW(rate, weight_decay=DECAY))
    return fit(backbone, optimizer, train, test, epochs, BATCH)


def run(seeds, pretraining_epochs, epochs):
    """Returns the test accuracies of both ways at their best rates, by seed and epoch."""
    curves = {(name, rate): [] for name in (ONE_RATE, GRADUAL) for rate in RATES}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        backbone = make_backbone(WIDTHS)
        noisy, few, test = data(seed)
        optimizer = keras.optimizers.Adam(0.003)
        before = fit(backbone, optimizer, noisy, test, pretraining_epochs, 128)
        print(f"seed {seed}: {100 * before[-1]:.1f} % before fine-tuning", flush=True)
        weights = backbone.get_weights()
        for (name, rate), results in curves.items():
            results.append(fine_tune(weights, name == GRADUAL, rate, few, test, epochs, seed))
    best = {}
    for name in (ONE_RATE, GRADUAL):
        final = {rate: 100 * np.mean(curves[name, rate], 0)[-1] for rate in RATES}
        print(name, *(f"rate {rate}: {mean:.1f} %" for rate, mean in final.items()), sep="  ")
        best[name] = 100 * np.array(curves[name, max(final, key=final.get)])
    return best


if __name__ == "__main__":
    main(
        run,
        __doc__.splitlines()[0],
        "gradual_unfreezing.png",
        sizes=(6, 6, 20),
        title="From noisy to few clean scans",
        tested_on="noisy scans",
    )
