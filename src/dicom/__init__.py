"""A folder of DICOM files -> one ordered series, or a named reason why there is none.

series = read_series("data/series/1.2.3")       # headers and pixels
series = open_series("data/series/1.2.3")       # headers only
"""

from src.dicom.fields import DicomError
from src.dicom.series import Series, open_all, open_series, read_series, read_words

__all__ = ["DicomError", "Series", "open_all", "open_series", "read_series", "read_words"]
