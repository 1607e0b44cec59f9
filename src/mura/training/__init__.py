"""Recipes, and the training that notebooks run cell by cell and ``mura train`` runs at once."""

from mura.training.checkpoint import Checkpoint
from mura.training.loop import Stage, augmentation, build, compose, stages, verbose
from mura.training.progress import CheckpointError
from mura.training.recipes import Recipe, RecipeError, recipe, usual_profile
from mura.training.start import TrainingError
from mura.training.train import describe, save, train
