"""Draws what `numerics.py` measured on the three backends into `docs/images/numerics.png`.

python docs/figures/numerics_plot.py
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BACKENDS = {
    "jax": ("JAX", "C0", "o"),
    "tensorflow": ("TensorFlow", "C1", "s"),
    "torch": ("PyTorch", "C3", "^"),
}
NOT_A_NUMBER = 10.0


def main():
    """Draws the picture."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axes, layer in zip(panels, ("batch", "layer", "group"), strict=True):
        for backend, (name, color, marker) in BACKENDS.items():
            found = json.loads((HERE / f"numerics-{backend}.json").read_text())
            places = range(len(found["means"]))
            for whose, line in (("keras_norm", "-"), ("keras", "--")):
                errors = [NOT_A_NUMBER if e is None else e for e in found["errors"][layer][whose]]
                label = f"{'keras_norm' if whose == 'keras_norm' else 'Keras'}, {name}"
                axes.plot(places, errors, line, color=color, marker=marker, ms=5, label=label)
        axes.set_yscale("log")
        axes.set_ylim(2e-8, 30)
        axes.set_yticks(
            [1e-7, 1e-5, 1e-3, 1e-1, NOT_A_NUMBER], ["1e-7", "1e-5", "0.001", "0.1", "NaN"]
        )
        axes.minorticks_off()
        axes.set_xticks(list(places), ["0", "10", "100", "1,000", "1e4", "1e5"])
        axes.set_xlabel("mean of the data (standard deviation 1)")
        axes.set_title(f"{layer} normalization")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("relative error of the output, float32")
    handles, labels = panels[0].get_legend_handles_labels()
    order = [0, 1, 2, 3, 4, 5]
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=3
    )
    figure.savefig(HERE.parent / "images" / "numerics.png", dpi=110)


if __name__ == "__main__":
    main()
