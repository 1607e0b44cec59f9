"""Loaders, models, training and evaluation for the MURA radiograph data set."""

from mura import compute

compute.use_onednn()  # before TensorFlow is imported, which heeds it only then
