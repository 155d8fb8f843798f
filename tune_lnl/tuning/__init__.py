import logging

# Ray looks for notebook widgets as it is imported into a notebook, and says there that it found none.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
