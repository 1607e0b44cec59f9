"""Loaders, models, training and evaluation for the MURA radiograph data set."""
