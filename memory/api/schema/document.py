"""Where the committed document stands, and what it is."""

from pathlib import Path

PATH = Path(__file__).with_name("openapi.json")
MEDIA_TYPE = "application/vnd.oai.openapi+json"
