"""The channels backend of realtime shim: WebSocket on ASGI, by way of Channels."""
