#!/usr/bin/env python3
"""TensorFlow: prune single weights of a Sequential model that is trained in a loop of its own."""

import sys

import aup
import numpy as np
import tensorflow as tf
from aup import aup_args, print_result  # noqa: F401
from sklearn.datasets import load_digits


def load_data():
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    train_ds = tf.data.Dataset.from_tensor_slices((images[:1200], digits.target[:1200])).batch(64)
    return train_ds, (images[1200:], digits.target[1200:])


def build():
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            tf.keras.layers.Conv2D(16, 3, activation="relu", name="conv1"),
            tf.keras.layers.MaxPooling2D(),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(32, activation="relu", name="fc1"),
            tf.keras.layers.Dense(10, activation="softmax", name="fc2"),
        ]
    )


def train(model, train_ds, optimizer, loss_object):
    for images, labels in train_ds:
        with tf.GradientTape() as tape:
            loss = loss_object(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def test(model, data):
    images, labels = data
    predicted = tf.argmax(model(images, training=False), axis=1).numpy()
    return float((predicted == labels).mean())


def main(config):
    tf.random.set_seed(1)
    train_ds, test_data = load_data()
    model = build()
    optimizer = tf.keras.optimizers.Adam(0.003)
    loss_object = tf.keras.losses.SparseCategoricalCrossentropy()

    compressor = aup.compression.create_compressor(model, config)
    compressor.compress()
    for epoch in range(2):
        train(model, train_ds, optimizer, loss_object)
        print(f"Epoch {epoch}, accuracy {test(model, test_data)}")
    accuracy = test(model, test_data)
    compressor.export_model("digits_model.h5", **config)
    print_result(accuracy - 1.0)


if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
