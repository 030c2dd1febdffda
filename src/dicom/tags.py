"""Tags beyond those of a plain image: what tells acquisitions apart, and groups of frames."""

DIMENSIONS, POINTER = "DimensionIndexSequence", "DimensionIndexPointer"
# Dimension indices of these count positions: in the stack, of the slice, of the plane.
POSITION_TAGS = (0x00209057, 0x00200032, 0x00209113, 0x00201041, 0x00209301)
MACROS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "FrameContentSequence", "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence", "MREchoSequence", "MRDiffusionSequence",
    "DiffusionGradientDirectionSequence", "MRModifierSequence", "CTXRayDetailsSequence",
    "MRTimingAndRelatedParametersSequence", "CTReconstructionSequence",
    "CardiacSynchronizationSequence", "TemporalPositionSequence", "MRVelocityEncodingSequence",
)  # fmt: skip
# What tells one acquisition or reconstruction from another; see src/dicom/acquisitions.py.
TRAITS = (
    "ImageType", "FrameType", "ComplexImageComponent", "DiffusionBValue",
    "DiffusionGradientOrientation", "EchoTime", "EffectiveEchoTime", "InversionTime",
    "InversionTimes", "FlipAngle", "SequenceName", "KVP", "ConvolutionKernel",
    "ContrastBolusAgent", "AcquisitionTime", "AcquisitionDateTime", "ContentTime", "TriggerTime",
    "FrameAcquisitionDateTime", "FrameAcquisitionNumber", "TemporalPositionIndex", "StackID",
    "NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "DimensionIndexValues",
    "AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers", "SeriesDescription",
    "SliceLocation", "RepetitionTime", "FrameReferenceDateTime", "TemporalPositionTimeOffset",
    "VelocityEncodingDirection",
)  # fmt: skip
PRIVATE_TRAITS = {
    0x0019100A: "SiemensMosaic", 0x0019100C: "SiemensB", 0x0019100E: "SiemensDirection",
    0x00431039: "GEB", 0x001910BB: "GEDirectionX", 0x001910BC: "GEDirectionY",
    0x001910BD: "GEDirectionZ",
    0x20011003: "PhilipsB", 0x200510B0: "PhilipsDirectionX", 0x200510B1: "PhilipsDirectionY",
    0x200510B2: "PhilipsDirectionZ",
}  # fmt: skip
BINARY = {  # numbers that are not stored as text -> type for struct
    "FrameAcquisitionNumber": "H", "TemporalPositionIndex": "I", "DimensionIndexValues": "I",
    "EffectiveEchoTime": "d", "InversionTimes": "d", "DiffusionBValue": "d",
    "DiffusionGradientOrientation": "d", "NominalCardiacTriggerDelayTime": "d",
    "TemporalPositionTimeOffset": "d", "VelocityEncodingDirection": "d", "SiemensMosaic": "H",
    "NominalPercentageOfCardiacPhase": "f", "SiemensDirection": "d", "PhilipsB": "f",
    "PhilipsDirectionX": "f", "PhilipsDirectionY": "f", "PhilipsDirectionZ": "f",
}  # fmt: skip
# Words that may be quoted: anything else might be a name.
MODALITIES = (
    "AR", "AS", "ASMT", "AU", "BDUS", "BI", "BMD", "CD", "CF", "CP", "CR", "CS", "CTPROTOCOL", "DD",
    "DF", "DG", "DM", "DOC", "DS", "DX", "EC", "ECG", "EEG", "EM", "EMG", "EOG", "EPS", "ES", "FA",
    "FID", "FS", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LP", "LS",
    "MA", "MG", "MS", "NM", "OAM", "OCT", "OP", "OPM", "OPR", "OPT", "OPTBSV", "OPTENF", "OPV",
    "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE",
    "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR", "SRF", "ST",
    "STAIN", "TEXTUREMAP", "TG", "US", "VA", "VF", "VS", "XA", "XC", "XAPROTOCOL",
)  # fmt: skip
COLOURS = (
    "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422",
    "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB",
)  # fmt: skip
