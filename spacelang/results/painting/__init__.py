"""Painting: scenes of shapes and texts, written as SVG or painted by matplotlib."""

from .charts import Axis as Axis
from .charts import Band as Band
from .charts import Curve as Curve
from .charts import bars as bars
from .charts import chart as chart
from .charts import number_text as number_text
from .charts import small_multiples as small_multiples
from .charts import value_text as value_text
from .figure_painter import painted as painted
from .parallel_coordinates import Strand as Strand
from .parallel_coordinates import parallel as parallel
from .scene import Scene as Scene
from .scene import Shape as Shape
from .scene import Text as Text
from .styles import stylesheet as stylesheet
from .svg_painter import escaped as escaped
from .svg_painter import svg_of as svg_of
from .text_widths import shortened as shortened
from .text_widths import text_width as text_width
