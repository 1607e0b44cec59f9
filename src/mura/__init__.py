"""Loaders, models, training and evaluation for bone radiographs."""

import os

# TensorFlow and JAX read these when they are imported, so import mura before them.
for _name, _value in {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # fewer start-up messages
    "TF_ENABLE_ONEDNN_OPTS": "1",  # faster kernels on processors with AVX2 alone
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # notebooks side by side share a GPU's memory
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}.items():
    os.environ.setdefault(_name, _value)
