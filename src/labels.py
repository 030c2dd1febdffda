"""The 14 labels: order, left-right mirror, weights of the score. Spelled nowhere else."""

LABELS = (
    "Left Infraclinoid Internal Carotid Artery",
    "Right Infraclinoid Internal Carotid Artery",
    "Left Supraclinoid Internal Carotid Artery",
    "Right Supraclinoid Internal Carotid Artery",
    "Left Middle Cerebral Artery",
    "Right Middle Cerebral Artery",
    "Anterior Communicating Artery",
    "Left Anterior Cerebral Artery",
    "Right Anterior Cerebral Artery",
    "Left Posterior Communicating Artery",
    "Right Posterior Communicating Artery",
    "Basilar Tip",
    "Other Posterior Circulation",
    "Aneurysm Present",
)
PRESENT = 13  # index of `Aneurysm Present`; the indices before it are the 13 locations
LOCATIONS = LABELS[:PRESENT]
NOTHING = "Nothing"  # location of a negative spot
NEGATIVE = PRESENT  # class_id of a negative spot, as in the published tables
SOMEWHERE = "unknown"  # location of a spot with an aneurysm of which no more is known
NOT_LOCATED = PRESENT + 1  # class_id of such a spot
UNKNOWN = 255  # a label of a slice (uint8) that nobody knows; NaN in tables and batches

# Label k of a mirrored head is label MIRROR[k] of the head itself.
MIRROR = (1, 0, 3, 2, 5, 4, 6, 8, 7, 10, 9, 11, 12, 13)

# Score = 0.5 * AUC(present) + 0.5 * mean of the location AUCs.
PRESENT_WEIGHT = 0.5

MODALITIES = ("CTA", "MRA", "MRI T2", "MRI T1post")
