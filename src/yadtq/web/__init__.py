"""The web app: pages for people and JSON for programs. Importing it loads FastAPI; nothing below does."""

from yadtq.web.site import create_app

__all__ = ["create_app"]
