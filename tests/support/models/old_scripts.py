"""Scripts in the two forms of the old tool, decorated and plain, on a small network of torch; and one of TensorFlow."""

NET = '''
"""A script of the old tool."""
import argparse, os, sys
import torch, torch.nn as nn
import aup

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8 * 16, 4)
    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1))

def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad(); model(torch.randn(4, 1, 8, 8)).square().mean().backward(); optimizer.step()

def score(model):
    with torch.no_grad():
        return float(model(torch.ones(1, 1, 8, 8)).sum())

def make():
    model = Net()
    model.load_state_dict(torch.load("./pretrained.pth"))
    return model, torch.optim.SGD(model.parameters(), lr=0.01)
'''

DECORATED = (
    NET
    + """
@aup.aup_args
def main(compression_type, compression_framework, compressor, config_list):
    config = locals()
    args, _ = argparse.ArgumentParser().parse_known_args()
    model, optimizer = make()
    compressor = aup.compression.create_compressor(model, config, optimizer=optimizer)
    model = compressor.compress()
    train(model, optimizer)
    {save}
    return score(model)

if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit("config file required")
    main(sys.argv[1])
"""
)
DECORATED_SAVE = (
    'aup.aup_save_model(compressor.export_model, model_path="m.pth", speedup=True, dummy_input={dummy})'.format(
        dummy="torch.randn(1, 1, 8, 8)"
    )
)
OWN_SAVE = """
    def save(model):
        os.makedirs("f1/f2")
        torch.save(model.state_dict(), "./f1/f2/own.pth")
    aup.aup_save_model(save, model)
"""

PLAIN = (
    NET
    + """
def main(config):
    model, optimizer = make()
    compressor = aup.compression.create_compressor(model, config, optimizer=optimizer)
    model = compressor.compress()
    train(model, optimizer)
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))
    flops, _, _ = compressor.count_flops_params((1, 1, 8, 8))
    if "save_model" in config and config["save_model"]:
        {save}
    aup.print_result("%f" % score(model))

if __name__ == '__main__':
    main(aup.BasicConfig().load(sys.argv[1]))
"""
)

TENSORFLOW = """
from aup import print_result, aup_args
import numpy as np
import tensorflow as tf
from tensorflow import keras
import sys
import aup

def main(config):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)])
    optimizer = keras.optimizers.Adam()
    images, labels = tf.random.normal((64, 8)), tf.zeros((64,), tf.int64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compressor = aup.compression.create_compressor(model, config)
    compressor.compress()
    for _ in range(5):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, model.trainable_variables), model.trainable_variables))
    accuracy = np.mean(np.argmax(model(images).numpy(), axis=1) == labels.numpy())
    compressor.export_model("m.h5", **config)
    aup.print_result(accuracy - 1.)

if __name__ == "__main__":
    main(aup.BasicConfig().load(sys.argv[1]))
"""
