"""HDF5 on disk."""
