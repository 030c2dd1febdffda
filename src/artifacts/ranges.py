"""Distances in mm that something real can have, for those who read no table."""

FARTHEST = 2e5  # mm from the scanner's origin; src/dicom lets no coordinate exceed 1e5
PIXELS = (1e-3, 100.0)  # mm; smallest and largest distance of pixels, as in src/dicom
SLICES = (0.0, 2 * FARTHEST)  # mm; a series may be a few slices far from each other
SPACINGS = {"slice_spacing": SLICES, "row_spacing": PIXELS, "column_spacing": PIXELS}
