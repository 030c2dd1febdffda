"""What later stages and people need to know of a series."""

from src.dicom import Series


def metadata_of(series: Series) -> dict:
    """Return what is known of a series from its headers, as plain values."""
    length, height, width = series.shape
    return {
        "length": length,
        "h": height,
        "w": width,
        "mod": series.modality,
        "plane": series.plane,
        "orientation": series.orientation,
        "slice_spacing": series.spacing[0],
        "row_spacing": series.spacing[1],
        "column_spacing": series.spacing[2],
        "patient_id": series.patient_id,
        "sop_uids": series.sop_uids,
        "frames": series.frames.tolist(),
        "positions": None if series.positions is None else series.positions.tolist(),
        "dropped": series.dropped,
        "warnings": series.warnings,
    }
