"""Pages without scripts and without addresses of other servers: the list of routes, and what `/` shows without a page."""

from __future__ import annotations

from html import escape
from typing import Any

from hodor import __version__
from hodor.serve.guard import PREFIX


def _document(title: str, body: str) -> str:
    head = f'<head><meta charset="utf-8"><title>{escape(title)}</title></head>'
    return f'<!doctype html>\n<html lang="en">{head}<body>{body}</body></html>\n'


def front() -> str:
    """Return what `/` shows where the package has no page."""
    return _document(
        "hodor serve",
        f"<h1>hodor {escape(__version__)}</h1><p>This is the HTTP interface of hodor. "
        f'<a href="{PREFIX}/docs">List of its routes</a>, <a href="{PREFIX}/openapi.json">OpenAPI</a>.</p>',
    )


def page(schema: dict[str, Any]) -> str:
    """Return the list of routes of an OpenAPI document as a page."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            inputs = [parameter["name"] for parameter in about.get("parameters", []) if parameter["in"] == "query"]
            text = about.get("description", "").split("\n")[0]
            rows.append(
                f"<tr><td><code>{escape(method.upper())}</code></td><td><code>{escape(path)}</code></td>"
                f"<td>{escape(text)}</td><td>{escape(', '.join(inputs))}</td></tr>"
            )
    head = "<tr><th>method</th><th>path</th><th>what it does</th><th>query</th></tr>"
    text = "Every request needs the header <code>Authorization: Bearer TOKEN</code>."
    link = f'<a href="{PREFIX}/openapi.json">OpenAPI</a>'
    return _document("hodor: HTTP API", f"<h1>HTTP API of hodor</h1><p>{text} {link}</p><table>{head}{''.join(rows)}</table>")
