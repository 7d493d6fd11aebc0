"""Reading and writing of image data; see ``docs/file_formats.md``."""

from fibsim.io._files import (
    atomic_path,
    atomic_write_text,
    csv_text,
    require_folder_of,
    require_new_folder,
    require_space,
)
from fibsim.io.reader import read_stack
from fibsim.io.report import fingerprint, inspect_stack
from fibsim.io.volume import (
    read_volume,
    read_voxel_nm,
    stack_files,
    volume_writer,
    write_stack,
    write_volume,
)
from fibsim.io.volume_file import VolumeFile, open_volume

__all__ = [
    "VolumeFile",
    "atomic_path",
    "atomic_write_text",
    "csv_text",
    "fingerprint",
    "inspect_stack",
    "open_volume",
    "read_stack",
    "read_volume",
    "read_voxel_nm",
    "require_folder_of",
    "require_new_folder",
    "require_space",
    "stack_files",
    "volume_writer",
    "write_stack",
    "write_volume",
]
