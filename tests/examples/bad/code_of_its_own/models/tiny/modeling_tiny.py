from pathlib import Path

Path("it_ran").touch()
