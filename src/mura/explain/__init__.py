"""Where a network looks, whether that is the finding, and which cases to look at."""

from mura.explain.cam import LocalizationError, View, look, look_at_files
from mura.explain.examples import (
    Case,
    choose_run,
    confident_errors,
    disagreements,
    open_case,
    right_calls,
    trained,
)
from mura.explain.pointing_game import all_pointed, pointed, pointing_game
