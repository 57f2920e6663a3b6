"""Files: written atomically, read safely, and the folders that may be written to."""

from .checksums import Checksums as Checksums
from .checksums import require_sha256 as require_sha256
from .differences import differences as differences
from .plain import plain as plain
from .storage import atomic_file as atomic_file
from .storage import cache_folder as cache_folder
from .storage import file_errors as file_errors
from .storage import fresh_run_folder as fresh_run_folder
from .storage import remove_leftovers as remove_leftovers
from .storage import target_path as target_path
from .storage import write_atomic as write_atomic
from .yaml_files import dump_yaml as dump_yaml
from .yaml_files import load_yaml as load_yaml
