"""The saved model: a folder without pickle, loadable into a fresh instance of its class."""
