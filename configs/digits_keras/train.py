"""Prune a small Keras CNN that reads scikit-learn's digits; the experiments beside this file all run it.

::

    python train.py config.json           by hand: prints the result
    raycompress run one_time.json         one configuration
    raycompress launch auto_level.json    a search
"""

import sys
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import raycompress as rc

WEIGHTS = Path(__file__).with_name("pretrained.weights.h5")  # made by pretrain.py
N_TRAIN = 1197
BATCH = 64


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1"),
            keras.layers.BatchNormalization(momentum=0.9, name="bn1"),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv2"),
            keras.layers.BatchNormalization(momentum=0.9, name="bn2"),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", use_bias=False, name="conv3"),
            keras.layers.BatchNormalization(momentum=0.9, name="bn3"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="fc"),
        ]
    )


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (images, labels) to train on and (images, labels) held out; images are [N, 8, 8, 1], in 0..1."""
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:N_TRAIN], order[N_TRAIN:]
    return (images[train], digits.target[train]), (images[held_out], digits.target[held_out])


def fit(model: keras.Model, images: np.ndarray, labels: np.ndarray, epochs: int, lr: float) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(lr), loss)
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=0)


def evaluate(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images read rightly."""
    return float((model.predict(images, verbose=0).argmax(axis=1) == labels).mean())


def share_left(model: keras.Model) -> float:
    """Return the share of the kernels' weights that are not zero."""
    kernels = [variable.numpy() for variable in model.weights if variable.name == "kernel"]
    return sum(np.count_nonzero(kernel) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def main(config: rc.BasicConfig) -> None:
    keras.utils.set_random_seed(0)
    train, held_out = load_data()
    model = build()
    model.load_weights(WEIGHTS)

    compressor = rc.create_compressor(model, config)
    model = compressor.compress()
    fit(model, *train, epochs=config.get("epochs", 3), lr=config.get("lr", 0.001))

    accuracy = evaluate(model, *held_out)
    weights_left = share_left(model)
    # Accuracy alone would always favour the least pruning: dropping a tenth of the weights is worth half a point here.
    rc.report(score=accuracy - 0.05 * weights_left, accuracy=accuracy, weights_left=weights_left)
    rc.save_model(compressor.export_model, model_path="model.keras", mask_path="mask.npz")


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
