"""Fill the templates of this folder: pages of one file that load nothing from outside.

Jinja2 escapes every text. The templates are also well-formed XML, which is how the tests read them.
"""

from base64 import b64encode
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **content) -> bytes:
    """Return the page of a template as UTF-8, a character that UTF-8 lacks as its escape."""
    page = templates.get_template(template).render(content)
    return page.encode("utf-8", "backslashreplace")


def data_uri(picture: bytes, kind: str) -> str:
    """Return a picture as the source of an <img>. kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{b64encode(picture).decode()}"
