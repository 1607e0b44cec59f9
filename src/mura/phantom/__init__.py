"""An embedded synthetic MURA: projections of a simple anatomy in MURA-v1.1's exact layout."""

from mura.phantom.dataset import DEFAULT_SCALE, PhantomError, generate, is_current
from mura.phantom.findings import FINDINGS, VARIANTS
from mura.phantom.plan import StudyPlan, plan_studies
from mura.phantom.rendering import View, render
