"""Reading and writing of image data; see ``docs/file_formats.md``."""

from fibsim.io._files import atomic_path, atomic_write_text, require_folder_of, require_new_folder
from fibsim.io.reader import read_stack
from fibsim.io.report import fingerprint, inspect_stack
from fibsim.io.volume import read_volume, read_voxel_nm, write_stack, write_volume

__all__ = [
    "atomic_path",
    "atomic_write_text",
    "fingerprint",
    "inspect_stack",
    "read_stack",
    "read_volume",
    "read_voxel_nm",
    "require_folder_of",
    "require_new_folder",
    "write_stack",
    "write_volume",
]
