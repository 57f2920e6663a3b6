"""Reports: everything a run folder tells, as one HTML page that needs no network."""

from .contents import Contents as Contents
from .page import experiment_html as experiment_html
from .page import history_html as history_html
from .page import page as page
from .page import space_html as space_html
