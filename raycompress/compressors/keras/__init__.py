"""Keras models: compressors, measures, bundles."""
