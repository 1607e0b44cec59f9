"""Keras models that take raw gray radiographs and carry their own preprocessing."""

from mura.models import novelty
from mura.models.architectures import (
    ARCHITECTURES,
    Architecture,
    ArchitectureError,
    abnormal_model,
    backbone,
    build,
    freeze_backbone,
    stage_table,
)
from mura.models.depthwise import with_depthwise_kernels
from mura.models.saved import ModelError, answering, load
from mura.models.settings import settle
from mura.models.weights import WeightsError

settle()
