"""A generator that ends Python."""

import sys

sys.exit(0)
