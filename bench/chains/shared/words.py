"""What the chain's action imports."""

END = "."
