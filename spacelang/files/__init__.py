"""Files: written atomically, read safely, and the folders that may be written to."""

from .paths import atomic_file as atomic_file
from .paths import cache_folder as cache_folder
from .paths import file_errors as file_errors
from .paths import fresh_run_folder as fresh_run_folder
from .paths import target_path as target_path
from .paths import write_atomic as write_atomic
from .plain import plain as plain
from .yaml_files import dump_yaml as dump_yaml
from .yaml_files import load_yaml as load_yaml
