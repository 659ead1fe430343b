"""Train the network of `train.py` and write pretrained.weights.h5: ``python pretrain.py [where]``, ten seconds."""

import sys

import keras
import tensorflow as tf
from train import WEIGHTS, build, evaluate, fit, load_data

EPOCHS = 25


def main(path: str) -> None:
    keras.utils.set_random_seed(0)
    tf.config.threading.set_intra_op_parallelism_threads(1)  # another number adds up in another order
    train, held_out = load_data()
    model = build()
    fit(model, *train, epochs=EPOCHS, lr=0.003)
    print(f"held-out accuracy {evaluate(model, *held_out):.4f}")
    # a fresh model has no optimizer, whose state would triple the file
    fresh = build()
    fresh.set_weights(model.get_weights())
    fresh.save_weights(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(WEIGHTS))
