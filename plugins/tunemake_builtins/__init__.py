"""The generators and prompt templates that ship; they enter by entry points, as a stranger's do."""
