"""make for fine-tuned models: project.toml in, merged model out, rebuilt only where stale."""

__version__ = "0.1.0"
