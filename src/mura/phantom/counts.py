"""The published counts of MURA v1.1, from its CSV files, as (normal, abnormal).

Table 1 of the paper (arXiv 1712.06957) counts the studies of v1.0, which differ a little.
"""

_BODY_PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")


def _cells(*pairs: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return dict(zip((f"XR_{part}" for part in _BODY_PARTS), pairs, strict=True))


IMAGE_COUNTS = {
    "train": _cells(
        (2925, 2006),
        (3138, 1968),
        (1164, 661),
        (4059, 1484),
        (673, 599),
        (4211, 4168),
        (5765, 3987),
    ),
    "valid": _cells(
        (235, 230), (214, 247), (150, 151), (271, 189), (148, 140), (285, 278), (364, 295)
    ),
}
STUDY_COUNTS = {
    "train": _cells(
        (1094, 660), (1280, 655), (590, 287), (1497, 521), (321, 271), (1364, 1457), (2134, 1326)
    ),
    "valid": _cells((92, 66), (92, 83), (69, 64), (101, 66), (68, 67), (99, 95), (140, 97)),
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
