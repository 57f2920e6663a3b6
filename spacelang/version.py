"""The version, which the package's metadata, run folders and bundles have from here."""

__version__ = "0.1.0"
