"""Fill the templates of this folder: pages of one file that load nothing from outside.

Jinja2 escapes every text, and `shown` what does not print. The templates are also well-formed XML,
which is how the tests read them.
"""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from src.text import printable

FOLDER = Path(__file__).parent
LONGEST = 2000  # characters of a line that holds what does not print


def shown(value: Any) -> Any:
    """Return a text whose lines can all be shown; other values as they are."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    lines = [line if line.isprintable() else printable(line, LONGEST) for line in value.split("\n")]
    return "\n".join(lines)


templates = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    finalize=shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def script(name: str) -> Markup:
    """Return a script of this folder as it is."""
    return Markup((FOLDER / name).read_text())


def allowed(name: str) -> Markup:
    """Return what the Content Security Policy calls this script, and no other."""
    digest = sha256(script(name).encode()).digest()
    return Markup(f"'sha256-{b64encode(digest).decode()}'")


templates.globals |= {"script": script, "allowed": allowed}


def render(template: str, **content) -> bytes:
    """Return the page of a template as UTF-8."""
    return templates.get_template(template).render(content).encode()


def data_uri(picture: bytes, kind: str) -> str:
    """Return a picture as the source of an <img>. kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{b64encode(picture).decode()}"
