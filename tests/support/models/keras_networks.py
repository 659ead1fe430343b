"""Small Keras models of every class, of Keras 3 or tf_keras, and ways to train them."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from sklearn.datasets import load_digits

LIBRARIES = {"keras": keras, "tf_keras": tf_keras}
KINDS = ("sequential", "functional", "subclass")
LAYERS = {
    "sequential": ["conv", "bn", "fc1", "fc2"],
    "functional": ["conv", "depthwise", "inner.fc1", "fc2"],
    "subclass": ["block.conv", "block.bn", "fc1", "fc2"],
}
"""Layers with weights, by kind of model, as a config_list names them."""

_DIGITS = load_digits()
IMAGES = (_DIGITS.images[..., np.newaxis] / 16).astype(np.float32)
LABELS = _DIGITS.target
N_TRAIN = 512


def make(library: ModuleType, kind: str) -> Any:
    """Return an untrained model that has its weights."""
    library.utils.set_random_seed(0)
    model = {"sequential": _sequential, "functional": _functional, "subclass": subclass}[kind](library)
    model(IMAGES[:2])
    return model


def _sequential(library: ModuleType) -> Any:
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(momentum=0.9, name="bn"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="fc1"),
            layers.Dense(10, name="fc2"),
        ]
    )


def _functional(library: ModuleType) -> Any:
    layers = library.layers
    inputs = layers.Input((8, 8, 1))
    features = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    features = layers.Add()([features, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(features)])
    inner = library.Sequential([layers.Flatten(), layers.Dense(16, name="fc1")], name="inner")
    return library.Model(inputs, layers.Dense(10, name="fc2")(inner(features)))


def flat(library: ModuleType) -> Any:
    """Return a functional model with no model inside, and with an addition."""
    layers = library.layers
    inputs = layers.Input((8, 8, 1))
    features = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    features = layers.Add()([features, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(features)])
    return library.Model(inputs, layers.Dense(10, name="fc2")(layers.Flatten()(features)))


def subclass(library: ModuleType) -> Any:
    """Return a model of a class of its own, which has no weights yet."""

    class Block(library.layers.Layer):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__(name="block")
            self.conv = library.layers.Conv2D(8, 3, name="conv")
            self.bn = library.layers.BatchNormalization(momentum=0.9, name="bn")

        def call(self, x: Any, training: bool = False) -> Any:
            return tf.nn.relu(self.bn(self.conv(x), training=training))

    class Net(library.Model):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()
            self.flatten = library.layers.Flatten()
            self.fc1 = library.layers.Dense(32, activation="relu", name="fc1")
            self.drop = library.layers.Dropout(0.1)
            self.fc2 = library.layers.Dense(10, name="fc2")

        def call(self, x: Any, training: bool = False) -> Any:
            return self.fc2(self.drop(self.fc1(self.flatten(self.block(x, training=training))), training=training))

    return Net()


def library_of(model: Any) -> ModuleType:
    return tf_keras if isinstance(model, tf_keras.Model) else keras


def loss_of(model: Any) -> Any:
    return library_of(model).losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model: Any, epochs: int = 1) -> None:
    model.compile(library_of(model).optimizers.Adam(0.003), loss_of(model))
    model.fit(IMAGES[:N_TRAIN], LABELS[:N_TRAIN], batch_size=64, epochs=epochs, verbose=0)


def eager_loop(model: Any) -> None:
    step = training_step(model)
    for start in range(0, N_TRAIN, 64):
        step(IMAGES[start : start + 64], LABELS[start : start + 64])


def compiled_loop(model: Any) -> None:
    step = tf.function(training_step(model))
    for start in range(0, N_TRAIN, 64):
        step(IMAGES[start : start + 64], LABELS[start : start + 64])


TRAININGS = {"fit": fit, "eager": eager_loop, "tf.function": compiled_loop}


def training_step(model: Any) -> Any:
    """Return a step of a custom loop over ``model.trainable_variables``."""
    optimizer, loss = library_of(model).optimizers.Adam(0.003), loss_of(model)

    def step(images: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    return step


def outputs(model: Any, count: int = 8) -> Any:
    return np.asarray(model(IMAGES[-count:]))


def accuracy(model: Any) -> float:
    return float((outputs(model, 400).argmax(axis=1) == LABELS[-400:]).mean())
