"""The published counts of MURA v1.1, from its CSV files, as (normal, abnormal).

Table 1 of the paper (arXiv 1712.06957) counts the studies of v1.0, which differ a little.
"""

_BODY_PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")


def _cells(normal: tuple[int, ...], abnormal: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    parts = (f"XR_{part}" for part in _BODY_PARTS)
    return dict(zip(parts, zip(normal, abnormal, strict=True), strict=True))


IMAGE_COUNTS = {
    "train": _cells(
        (2925, 3138, 1164, 4059, 673, 4211, 5765), (2006, 1968, 661, 1484, 599, 4168, 3987)
    ),
    "valid": _cells((235, 214, 150, 271, 148, 285, 364), (230, 247, 151, 189, 140, 278, 295)),
}
STUDY_COUNTS = {
    "train": _cells(
        (1094, 1280, 590, 1497, 321, 1364, 2134), (660, 655, 287, 521, 271, 1457, 1326)
    ),
    "valid": _cells((92, 92, 69, 101, 68, 99, 140), (66, 83, 64, 66, 67, 95, 97)),
}
PATIENT_COUNTS = {"train": 11_184, "valid": 783}
# Patients with studies of more than one body part, and with normal and abnormal studies.
PATIENTS_WITH_SEVERAL_PARTS = {"train": 1467, "valid": 248}
PATIENTS_WITH_BOTH_LABELS = {"train": 888, "valid": 167}
# Number of views in a study -> number of studies.
VIEWS_PER_STUDY = {
    "train": {1: 1131, 2: 3733, 3: 6466, 4: 1887, 5: 197, 6: 27, 7: 13, 8: 2, 11: 1},
    "valid": {1: 101, 2: 412, 3: 517, 4: 135, 5: 30, 6: 1, 7: 1, 8: 1, 10: 1},
}
