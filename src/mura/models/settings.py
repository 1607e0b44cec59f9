"""Keras's global settings, on which the meaning of a network depends."""

import warnings

import keras

_NEEDED = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
_NEEDED |= {"max_epochs": None, "max_steps_per_epoch": None}


def settle() -> None:
    """Set Keras to what this project's networks mean, whatever its configuration says.

    Other software leaves settings in Keras's configuration file, and notebooks change them. The
    dtype policy is not among these: ``models.build`` takes its own.

    Warns:
        UserWarning: Something was set otherwise.
    """
    changed = []
    for name, needed in _NEEDED.items():
        found = getattr(keras.config, name)()
        if found != needed:
            getattr(keras.config, f"set_{name}")(needed)
            changed.append(f"{name} from {found} to {needed}")
    if changed:
        warnings.warn(
            f"Keras's settings were changed ({'; '.join(changed)}): a recipe means one network.",
            stacklevel=2,
        )
