"""The plot that MATLAB calls "training-progress"."""

import keras


class TrainingProgress(keras.callbacks.Callback):
    """Plots the loss, and the validation loss if there is one, after each epoch."""

    def __init__(self):
        super().__init__()
        try:
            import matplotlib.pyplot
        except ImportError as error:
            raise ImportError(
                "Plots='training-progress' needs matplotlib: pip install matplotlib. "
                "Or use Plots='none'."
            ) from error
        self._pyplot = matplotlib.pyplot
        self._losses = {"loss": [], "val_loss": []}

    def on_train_begin(self, logs=None):
        """Opens the figure."""
        self.figure, self._axes = self._pyplot.subplots()

    def on_epoch_end(self, epoch, logs=None):
        """Draws the curves up to this epoch."""
        self._axes.clear()
        self._axes.set(title="Training progress", xlabel="Epoch", ylabel="Loss")
        for name, label in (("loss", "Training"), ("val_loss", "Validation")):
            if name in (logs or {}):
                self._losses[name].append(logs[name])
                epochs = range(1, len(self._losses[name]) + 1)
                self._axes.plot(epochs, self._losses[name], label=label)
        self._axes.legend()
        self.figure.canvas.draw_idle()
        self.figure.canvas.flush_events()
        self.figure.show(warn=False)
