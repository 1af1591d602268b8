"""Clients of the service, for trainers: they need neither torch nor a model."""

from esscher.client.answers import Answer, ColumnError
from esscher.client.asynchronous import AsyncClient
from esscher.client.blocking import Client
from esscher.client.requests import ServerInfo

__all__ = ["Answer", "AsyncClient", "Client", "ColumnError", "ServerInfo"]
