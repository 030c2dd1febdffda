"""{name}.mrk.json: findings as fiducials, for 3D Slicer."""

from pathlib import Path

from src.artifacts.files import write_json
from src.inference.ensemble import Prediction
from src.inference.findings import Finding
from src.preprocess.images import PreparedSeries
from tools.outputs.source import NOTICE, image_name, require_localised, require_places

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)


def write(out: Path, name: str, prepared: PreparedSeries, prediction: Prediction) -> None:
    """Write one point a finding; a list without points says that there are none."""
    require_localised(prediction)
    require_places(prepared.series)
    points = []
    for rank, finding in enumerate(prediction.findings, 1):
        slice_ = prepared.series.slices[finding.slice]
        points.append(control_point(rank, finding, image_name(slice_)))
    markups = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",  # mm to the left, to the back, to the head
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        "controlPoints": points,
    }
    content = {"@schema": SCHEMA, "markups": [markups]}
    write_json(out / f"{name}.mrk.json", content, sync=False)


def control_point(rank: int, finding: Finding, image: str) -> dict:
    return {
        "id": str(rank),
        "label": f"{rank}: {finding.label} {finding.probability:.2f}",
        "description": f"{image}; {NOTICE}",
        "associatedNodeID": "",
        "position": list(finding.patient),
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    }
