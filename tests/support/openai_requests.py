"""Requests of the official client of the OpenAI API to our server."""

from __future__ import annotations

import base64
import io

import openai
from PIL import Image

KEY = "0123456789abcdef"


def client_of(address, key=KEY):
    """Returns the official client of a server."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60)


def chat(client, content="What?", **options):
    """Asks about some content, and returns what the client does."""
    return client.chat.completions.create(
        **{"model": "tiny", "messages": [{"role": "user", "content": content}], **options}
    )


def image_part(url):
    """Returns a content part with an image."""
    return {"type": "image_url", "image_url": {"url": url}}


def schema_of(schema):
    """Returns the response_format that follows a schema."""
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


def data_uri(rgb, kind="PNG"):
    """Returns an image as a data URI, and the content of its file."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}", file.getvalue()
