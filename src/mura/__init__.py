"""Loaders, models, training and evaluation for the MURA radiograph data set."""

from mura import compute

# before TensorFlow or JAX is imported, which heed these only then
compute.use_onednn()
compute.share_gpu_memory()
