"""What tools/import_nifti.py needs: layouts, grids, voxels, lesions, DICOM files."""
